"""Fetching what a benchmark's publisher serves file by file: annotation files, and the clips of CREMA-D."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from . import find_benchmark
from .benchmark import make_builder
from .files import list_files
from .listed import MediaIndex, is_pointer
from .sources import find_source

# Large files of a GitHub repository, which its plain addresses serve as git-lfs pointers only.
CREMA_D = "https://media.githubusercontent.com/media/CheyneyComputerScience/CREMA-D/master"
TRIES = 4  # of each file
TIMEOUT = 60  # seconds without a byte
PARALLEL = 8  # files at a time


def download(name, data_dir, media_url=CREMA_D, annotation_urls=None):
    """Fetch what is not in `data_dir` yet.

    A file appears under its name when it is complete, so a download that was stopped goes on where it was.

    Args:
        name (`str`): a benchmark. Of all but `crema_d` only the annotation files can be fetched.
        data_dir (`str`): is made if it is not there.
        media_url (`str`): serves `AudioWAV/{clip}.wav` and `VideoFlash/{clip}.flv` of CREMA-D.
        annotation_urls (`dict[str, str]`, *optional*): from an annotation file to its address; the publisher's if not
            given.

    Returns:
        `list[str]`: files that the server does not have.

    Raises:
        ValueError: nothing can be fetched of this benchmark. OSError: the network or the disk fails; what is complete
        is kept.
    """
    urls = find_source(name).urls if annotation_urls is None else annotation_urls
    if not urls:
        raise ValueError(f"{name} cannot be fetched by this program; --how tells where it is obtained.")
    if data_dir is None:
        raise ValueError("data_dir is missing, the folder to fetch into.")
    folder, cls = Path(data_dir).expanduser(), find_benchmark(name)
    folder.mkdir(parents=True, exist_ok=True)
    there = MediaIndex(list_files(folder, links=True), folder)
    for file, url in urls.items():
        if all(there.flaw(f"{place}/{file}".lstrip("/")) for place in cls.folders):
            fetch(url, folder / file)
    if name != "crema_d":
        return []
    listed = make_builder(cls, folder, None, None, {"links": True}).annotations()
    clips = [sample["name"] for samples in listed.values() for sample in samples]
    paths = [path for clip in clips for path in (f"AudioWAV/{clip}.wav", f"VideoFlash/{clip}.flv")]
    return _fetch_all({path: f"{media_url}/{path}" for path in paths if there.flaw(path)}, folder)


def _fetch_all(urls, folder):
    absent = []
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = {pool.submit(fetch, url, folder / path): path for path, url in urls.items()}
        try:
            for future in tqdm(as_completed(futures), "fetching files", len(futures), mininterval=2):
                try:
                    future.result()
                except FileNotFoundError:
                    absent.append(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(absent)


def fetch(url, path):
    """Fetch `url` (`str`) to `path` (`Path`), whole or not at all.

    Raises:
        FileNotFoundError: the server has no such file. OSError: it fails again and again, or sends a git-lfs pointer.
    """
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("ERROR")
    path.unlink(missing_ok=True)  # one that is empty or a pointer
    store = pooch.create(path.parent, url, registry={path.name: None}, urls={path.name: url}, retry_if_failed=TRIES - 1)
    try:
        store.fetch(path.name, downloader=_download)
    except (RequestException, ValueError) as error:
        raise OSError(
            f"{url} cannot be fetched ({error}); check the network and run the same command again to go on."
        ) from error


def _download(url, file, store):
    """What pooch calls at each try: an error that another try does not mend is of a kind that it does not catch."""
    from pooch import HTTPDownloader
    from requests import HTTPError

    try:
        HTTPDownloader(timeout=TIMEOUT, headers={"User-Agent": "modeling-lfm"})(url, file, store)
    except HTTPError as error:
        code = error.response.status_code
        if code in (404, 410):
            raise FileNotFoundError(f"{url} is not there (HTTP {code}).") from None
        if code < 500 and code not in (408, 429):
            raise OSError(f"{url} cannot be fetched (HTTP {code}).") from None
        raise
    if Path(file).stat().st_size == 0:
        raise ValueError("the file is empty")
    if is_pointer(Path(file)):
        raise OSError(f"{url} serves a git-lfs pointer, not the file; fetch it as --how tells.")
