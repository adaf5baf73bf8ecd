"""A hook of MkDocs, which adds to the site of `make docs` what is not in docs/.

- The pages of the project's root, and every file outside docs/ that a page links to.
- The references of the Python packages (by mkdocstrings) and of the HTTP API.

A page is a path in the project (`docs/client.md`, `README.md`) or on the site (`client.md`, `overview.md`). Pages keep
the links that lead somewhere in the project; here those become links of the site.
"""

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mkdocs.structure.files import File, Files

from docs.make_openapi import openapi_page
from presence_server import __version__
from presence_server.api.calls import ROUTES
from presence_server.api.openapi import openapi_document

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

PROJECT: Final = Path(__file__).parents[1]
ADDED_PAGES: Final = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/results/README.md",
)
"""The pages outside docs/ that the site has."""
RENAMED: Final = {"README.md": "overview.md"}
"""Pages whose own name another page of the site has."""
LINK: Final = re.compile(r"(\]\()([^)\s]+)(\))")
FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

REFERENCES: Final[dict[str, tuple[str, str, dict[str, list[str]]]]] = {
    "reference/client.md": (
        "Python client: reference",
        "Every public name of `presence_server.client`. How to use them: [the Python client](../client.md).",
        {
            "Connections": ["client.connect", "client.Client"],
            "Rooms": ["client.Room", "client.Member", "client.User"],
            "Events": [
                "client.Event",
                "client.Joined",
                "client.Updated",
                "client.Left",
                "client.Synced",
                "client.Counted",
                "client.StaleChanged",
                "client.Message",
                "client.Signal",
                "client.Overflow",
                "client.Removed",
                "client.RoomLost",
                "client.Connected",
                "client.Disconnected",
                "client.Closed",
            ],
            "Errors": [
                "client.ClientError",
                "client.RequestFailed",
                "client.ConnectionLost",
                "client.ClientClosed",
                "client.ConnectionRefused",
                "client.ConnectionEnded",
                "client.ProtocolViolation",
            ],
            "Values": ["client.Mode", "client.Reason", "client.RemovalReason"],
        },
    ),
    "reference/limiter.md": (
        "Limiter: reference",
        "Every public name of `presence_server.throttle`, and of its modules for functions and frameworks. How to use"
        " them: [the limiter as a library](../limiter.md).",
        {
            "Limiters": ["throttle.Limiter", "throttle.SyncLimiter", "throttle.Rule", "throttle.Decision"],
            "Errors": ["throttle.ThrottledError", "throttle.TooCostlyError", "throttle.slots.NoSlotError"],
            "Slots": ["throttle.slots.Slot"],
            "Functions": [
                "throttle.decorators.limit",
                "throttle.decorators.counted",
                "throttle.decorators.sync_counted",
            ],
            "ASGI": ["throttle.asgi.Throttle", "throttle.routes.Routes"],
            "FastAPI": ["throttle.fastapi.limited", "throttle.fastapi.answer_with_problems"],
            "WSGI": ["throttle.wsgi.WsgiThrottle"],
        },
    ),
}
"""The references that mkdocstrings makes: title, introduction, and names by heading."""
SEE_ALSO: Final = {
    "client.md": "[Reference](reference/client.md): every class and function, with its signature.",
    "limiter.md": "[Reference](reference/limiter.md): every class and function, with its signature.",
    "api.md": "[Reference](reference/http.md): every call with its parameters, bodies and answers.",
}
"""The line with which a page refers to its reference, which is on the site alone."""


def on_files(files: Files, config: "MkDocsConfig") -> Files:
    """Add the pages and files that are not in docs/."""
    for path in (*ADDED_PAGES, *linked_files()):
        files.append(File.generated(config, place(path), abs_src_path=str(PROJECT / path)))
    for name in REFERENCES:
        files.append(File.generated(config, name, content=reference(name)))
    described = openapi_document(ROUTES, __version__, keyed=True)
    files.append(File.generated(config, "reference/http.md", content=openapi_page(described)))
    files.append(File.generated(config, "reference/openapi.json", content=json.dumps(described, indent=2)))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: Files) -> str:
    """Turn the links of a page into links of the site."""
    del config, files
    name = page.file.src_uri
    if name in SEE_ALSO:
        title, _, rest = markdown.partition("\n\n")
        markdown = f"{title}\n\n{SEE_ALSO[name]}\n\n{rest}"
    return markdown if name.startswith("reference/") else moved(markdown, source(name))


def linked_files() -> list[str]:
    """Return the files outside docs/ that pages link to, which are not pages themselves."""
    pages = [PROJECT / name for name in ADDED_PAGES] + sorted((PROJECT / "docs").glob("*.md"))
    found = set()
    for page in pages:
        path = page.relative_to(PROJECT).as_posix()
        found |= {target(link, path) for link in links(page.read_text(encoding="utf-8"))}
    return sorted(
        path
        for path in found
        if not path.startswith("docs/") and path not in ADDED_PAGES and (PROJECT / path).is_file()
    )


def links(markdown: str) -> Iterator[str]:
    """Yield where the links to files of the project lead, without a heading in them."""
    for found in LINK.finditer(FENCED.sub("", markdown)):
        link = found[2].partition("#")[0]
        if link and ":" not in link:
            yield link


def moved(markdown: str, path: str) -> str:
    """Return a page of the project with its links as they are on the site."""

    def replaced(found: re.Match[str]) -> str:
        link, mark, heading = found[2].partition("#")
        if not link or ":" in link:
            return found[0]
        on_site = posixpath.relpath(place(target(link, path)), posixpath.dirname(place(path)) or ".")
        return f"{found[1]}{on_site}{mark}{heading}{found[3]}"

    parts = re.split(f"({FENCED.pattern})", markdown, flags=FENCED.flags)
    return "".join(part if part.startswith("```") else LINK.sub(replaced, part) for part in parts)


def target(link: str, path: str) -> str:
    """Return the file of the project that a link on a page leads to; of a folder its README."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return f"{found}/README.md" if (PROJECT / found).is_dir() else found


def place(path: str) -> str:
    """Return where a file of the project is on the site."""
    return RENAMED.get(path, path.removeprefix("docs/"))


def source(name: str) -> str:
    """Return where a page of the site is in the project."""
    added = {place(path): path for path in ADDED_PAGES}
    return added.get(name, f"docs/{name}")


def reference(name: str) -> str:
    """Return a page that mkdocstrings fills in."""
    title, introduction, groups = REFERENCES[name]
    parts = [f"# {title}", introduction]
    for heading, names in groups.items():
        parts += [f"## {heading}", *(f"::: presence_server.{each}" for each in names)]
    return "\n\n".join(parts) + "\n"
