"""Sources of examples, their splits, and views of them."""

from nasdistill.data.batch import Batch
from nasdistill.data.dataset import Dataset
from nasdistill.data.loading import load_data
from nasdistill.data.mixing import Mixing
from nasdistill.data.randaugment import RandAugment
from nasdistill.data.raw import Files, Raw, Request, Source
from nasdistill.data.sources import SOURCES, register_sources
from nasdistill.data.splits import ResidentSplit, Split, StreamingSplit
from nasdistill.data.views import Views

__all__ = [
    "SOURCES",
    "Batch",
    "Dataset",
    "Files",
    "Mixing",
    "RandAugment",
    "Raw",
    "Request",
    "ResidentSplit",
    "Source",
    "Split",
    "StreamingSplit",
    "Views",
    "load_data",
    "register_sources",
]
