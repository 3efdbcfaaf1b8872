"""``python -m medssl_monai.apps`` is the ``medssl`` command."""

import sys

from medssl_monai.apps.cli import main

sys.exit(main())
