"""What is on disk: layout, storage, partial files, catalogue, lock, checksums, and questions to it.

Others use `catalog.Catalog` and `storage.Storage`; `inventory` answers what `status` asks.
"""
