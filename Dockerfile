# docker build --target cpu -t secondsight:cpu .      signal analysers, served models, the query service
# docker build --target cuda -t secondsight:cuda .    and Qwen3-VL on GPUs (PyPI's torch brings CUDA along)
# The driver of the GPUs and its container toolkit are the node's. The cuda image runs without GPUs too.
FROM python:3.11-slim AS base

# KubeRay starts Ray through a shell, where it is told so a login shell: what that needs lies in /usr/local/bin, no venv.
RUN useradd --uid 1000 --user-group --create-home secondsight \
    && apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg procps wget \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
WORKDIR /src

FROM base AS cpu
COPY pyproject.toml constraints.txt README.md LICENSE secondsight.py ./
COPY pipeline pipeline
COPY model model
COPY workers workers
COPY jobs jobs
RUN pip install -c constraints.txt '.[s3,serve,faces,trace]' 'ray[serve]' && rm -rf /src/*
USER 1000
WORKDIR /home/secondsight
RUN secondsight --help > /dev/null
CMD ["secondsight", "--help"]

FROM base AS cuda
COPY pyproject.toml constraints.txt README.md LICENSE secondsight.py ./
COPY pipeline pipeline
COPY model model
COPY workers workers
COPY jobs jobs
RUN pip install -c constraints.txt '.[s3,serve,faces,trace,decord,qwen]' 'ray[serve]' && rm -rf /src/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
USER 1000
WORKDIR /home/secondsight
RUN secondsight --help > /dev/null
CMD ["secondsight", "--help"]
