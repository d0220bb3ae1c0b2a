"""Code of the BioAtt bundle: low-dose CT denoising with an anatomical prior. Importing it loads nothing heavy."""

import time

#: When this process began to load the bundle, in seconds since the epoch: before anything that takes long.
LOADED_AT = time.time()
