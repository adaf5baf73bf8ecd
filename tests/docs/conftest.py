from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser


@pytest.fixture
async def browser(browser: Browser) -> AsyncIterator[Browser]:
    """The Chromium of all tests, without what this one has opened in it: pages go on until they are closed."""
    yield browser
    for context in browser.contexts:
        await context.close()
