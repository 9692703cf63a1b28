"""Prints where Playwright keeps the Chromium that `playwright install` fetches."""

from __future__ import annotations

from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    print(playwright.chromium.executable_path)
