import os
import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

from tests.browser.visitor import CHROMIUM_ARGS, CHROMIUM_NAMES


@pytest.fixture
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    """A real Chromium; without one the test is skipped, except where CI is set."""
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        reason = f"no browser: none of {', '.join(CHROMIUM_NAMES)} is on the PATH"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()
