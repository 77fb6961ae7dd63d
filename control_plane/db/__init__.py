"""The database: engines, column types, the unit of work that alone commits, and the migrations."""
