"""The internal port: what operators and backends ask. Knows no sockets of clients."""
