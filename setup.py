"""What is compiled: hooks' short way, the sampler's loop, and and the reader of traces.

Without a compiler the package is pure Python.
"""

from setuptools import Extension, setup

COMPILED = ("capture._interval", "capture._looks", "record.trace._scan")

setup(
    ext_modules=[
        Extension(
            f"profiler.{name}",
            [f"profiler/{name.replace('.', '/')}.c"],
            depends=["profiler/record/trace/_text.h"],
            libraries=["m"],
            optional=True,
        )
        for name in COMPILED
    ]
)
