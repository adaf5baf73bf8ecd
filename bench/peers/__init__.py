"""What the server is measured against: processes that do the least that the same work takes."""
