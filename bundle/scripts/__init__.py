"""Code of the BioAtt bundle: low-dose CT denoising with an anatomical prior. Importing it loads nothing heavy."""
