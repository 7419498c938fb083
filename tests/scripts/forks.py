"""Programs in processes of their own, forked from one that has imported what they need, which takes seconds."""

import gc
import os
import runpy
import sys
import tempfile

import psutil

from modeling_lfm.scripts.common.executor import PROCESSES

if sys.platform == "linux":
    from multiprocessing import forkserver


def start(log, function, *arguments, cwd=None, **environment):
    """Begin a process that calls a function.

    Args:
        log (`Path`): the file to which all that it prints goes.
        cwd (`Path`, *optional*): its folder.
        environment: variables (`str`) beside those that are set here.

    Returns:
        `multiprocessing.Process`
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    process = PROCESSES.Process(target=_work, args=(log, cwd, variables, function, arguments))
    process.start()
    return process


def find_forks():
    """The processes (`set[psutil.Process]`) of the server, and what those started."""
    return {fork for server in psutil.Process().children() for fork in server.children(recursive=True)}


def run_program(path, *words):
    """In such a process: what `python PATH WORDS` does."""
    sys.argv = [str(path), *map(str, words)]
    runpy.run_path(str(path), run_name="__main__")


def _work(log, cwd, variables, function, arguments):
    os.environ.clear()
    os.environ.update(variables)
    tempfile.tempdir = None
    if sys.platform == "linux":  # what a program starts is a fork of the same server, not of one that imports all anew
        forkserver._forkserver.ensure_running = lambda: None
    gc.freeze()  # or each run of a trainer looks through all that was imported
    os.chdir(cwd or os.getcwd())
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    function(*arguments)
