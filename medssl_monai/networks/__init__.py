"""The nets and their blocks, on MONAI's, and the loading of published weights."""
