"""The engines that benchmarks/index_engines.py compares."""

from .arrow import Lance, Parquet
from .engine import Engine
from .mapped import Duck, ParquetMapped, Sqlite
from .qdrant import Qdrant, QdrantMapped

__all__ = ["ENGINES", "Engine"]

ENGINES: dict[str, type[Engine]] = {
    "lancedb": Lance,
    "parquet": Parquet,
    "parquet + mapped": ParquetMapped,
    "duckdb + parquet + mapped": Duck,
    "sqlite + mapped": Sqlite,
    "qdrant embedded": Qdrant,
    "qdrant + mapped": QdrantMapped,
}
