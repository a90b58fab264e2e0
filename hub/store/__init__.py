"""Where are the records of ended questions kept, and how are they read back? SQLite, or PostgreSQL by its URL."""
