"""How examples lie on disk: image files, maps, metadata files, tar shards."""
