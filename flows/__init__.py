"""What says when: the command line and the Prefect flows over the stages."""
