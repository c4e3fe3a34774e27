"""How calls and downloads speak HTTP: sessions, connections, addresses, errors in words."""
