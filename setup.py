"""What is compiled: hooks' short way and the sampler's loop. Without a compiler the package is pure Python."""

from setuptools import Extension, setup

COMPILED = ("_interval", "_looks")

setup(
    ext_modules=[
        Extension(f"profiler.capture.{name}", [f"profiler/capture/{name}.c"], libraries=["m"], optional=True)
        for name in COMPILED
    ]
)
