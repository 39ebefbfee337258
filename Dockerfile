# One image for every role: docker run cutlayer serve backend | split | fed | dashboard, docker run cutlayer client ...
#
#   docker build -t cutlayer .                                                       CPU
#   docker build -t cutlayer:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .  CUDA (its libraries come with torch)

ARG PYTHON=3.13.7-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=otel
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/cutlayer
ENV PATH=/opt/cutlayer/bin:$PATH
# torch by itself: its layer is the large one, and stays when the package changes.
RUN pip install --index-url "${TORCH_INDEX}" "${TORCH}"
COPY pyproject.toml README.md LICENSE /source/
COPY cutlayer /source/cutlayer
RUN pip install "/source[${EXTRAS}]" && python -m compileall -q /opt/cutlayer/lib/python3*/site-packages/cutlayer

FROM python:${PYTHON}
RUN groupadd --gid 10001 cutlayer \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/cutlayer --shell /usr/sbin/nologin cutlayer \
    && install --directory --mode 1777 /var/lib/cutlayer /var/lib/cutlayer/store /var/lib/cutlayer/artifacts
COPY --from=build /opt/cutlayer /opt/cutlayer
ENV PATH=/opt/cutlayer/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp \
    CUTLAYER_FOLDER=/var/lib/cutlayer \
    CUTLAYER_ANNOUNCE=/tmp/cutlayer.json \
    CUTLAYER_HOST=0.0.0.0 \
    CUTLAYER_LOG_FORMAT=json
WORKDIR /var/lib/cutlayer
USER 10001:10001
EXPOSE 7400 7401 7402 7480
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=3 CMD ["python", "-m", "cutlayer.services.probe"]
ENTRYPOINT ["cutlayer"]
CMD ["--help"]
