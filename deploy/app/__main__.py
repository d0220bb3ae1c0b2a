"""Start the application: ``python deploy/app -i DICOM_FOLDER -o OUTPUT_FOLDER -m bundle``."""

import sys

from app import main

sys.exit(main())
