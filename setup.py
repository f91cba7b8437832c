"""The one part that is compiled: hooks' short way. Without a compiler the package is pure Python."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("profiler.capture._interval", ["profiler/capture/_interval.c"], optional=True)])
