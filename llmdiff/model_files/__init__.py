"""Files and folders of models: what they hold, what they lack, and which are refused, before anything is loaded."""
