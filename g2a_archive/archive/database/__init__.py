"""The catalogue: its SQLite file, its schema, what is recorded, and questions one can ask of it.

Others use `catalog.Catalog`; `inventory` answers what `status` asks.
"""
