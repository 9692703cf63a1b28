"""The probe: how well a text encoder's tokens carry who is what and where. No picture is drawn or read for it."""
