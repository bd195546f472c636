# The project in an image, for flow runs in containers (prefect.docker.yaml):
#   docker build --tag fearec .
FROM python:3.11-slim
WORKDIR /opt/fearec
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY model model
COPY pipeline pipeline
COPY flows flows
COPY sample_data sample_data
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[nightly]'
