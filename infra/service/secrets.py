"""Passwords, and texts without them."""

from __future__ import annotations

import os
import re

SECRETS = (
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_API_AUTH_STRING",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
)
"""Environment variables that hold passwords."""


def redacted(text: str) -> str:
    """Return a text without the passwords of addresses and of the environment."""
    for secret in filter(None, map(os.environ.get, SECRETS)):
        text = text.replace(secret, "***")
    text = re.sub(r"://([^:/@\s]*):\S+@", r"://\1:***@", text)
    return re.sub(r"(password=)[^&\s]+", r"\1***", text)
