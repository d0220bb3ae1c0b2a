"""Many series, spread over processes and machines by Dask."""

from .run import Places, denoise_cohort, denoise_jobs
from .series_list import Job, read_list
from .work import denoise_series
