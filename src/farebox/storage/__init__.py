"""PostgreSQL: migrations, queries and the stores behind the ports."""
