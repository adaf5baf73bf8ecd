"""The types of the TypeScript client are those of the server's messages."""

from pathlib import Path

from presence_server.protocol.typescript import typescript

MESSAGES = Path(__file__).parents[2] / "clients/typescript/src/messages.ts"


def test_the_clients_message_types_are_made_from_the_servers() -> None:
    assert MESSAGES.read_text(encoding="utf-8") == typescript(), (
        "run: python -m presence_server.protocol.typescript > clients/typescript/src/messages.ts"
    )
