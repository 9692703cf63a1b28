"""Remote data: objects of a bucket, files of a web server, files of a data set on the Hugging Face hub."""

from llmdiff.data.remote.address import data_path, is_remote, shown
from llmdiff.data.remote.path import DataPath, RemotePath

__all__ = ["DataPath", "RemotePath", "data_path", "is_remote", "shown"]
