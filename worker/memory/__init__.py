"""What agents remember: ports and their adapters, conversations, and passages of documents."""
