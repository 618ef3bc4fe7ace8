# One image for every process of a house; `docker build --build-arg EXTRA=serve .` makes the light one of the API.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG EXTRA=all
WORKDIR /src
COPY requirements.lock pyproject.toml ./
# uv by its lines of the lock, all else by uv: a package of another hash than the lock's is refused.
RUN sed -n '/^uv==/,/[^\\]$/p' requirements.lock > uv.lock \
    && pip install --no-cache-dir --require-hashes --requirement uv.lock \
    && uv venv /opt/croupier \
    && uv pip install --no-cache --compile-bytecode --python /opt/croupier/bin/python \
        --require-hashes --constraint requirements.lock --requirement pyproject.toml --extra "${EXTRA}"
COPY README.md LICENSE mlflow.yaml ./
COPY features features
COPY models models
COPY service service
COPY pipelines pipelines
RUN uv build --wheel --no-cache --require-hashes --build-constraint requirements.lock --out-dir dist \
    && uv pip install --no-cache --compile-bytecode --python /opt/croupier/bin/python --no-deps dist/*.whl

FROM python:${PYTHON}-slim-bookworm
# OpenMP, for LightGBM; its version is the base image's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 croupier \
    && useradd --system --uid 10001 --gid croupier --no-create-home croupier \
    && install --directory --owner croupier --group croupier --mode 700 /var/lib/croupier
COPY --from=build /opt/croupier /opt/croupier
ENV PATH=/opt/croupier/bin:$PATH \
    CROUPIER_HOME=/var/lib/croupier \
    HOME=/var/lib/croupier
USER 10001:10001
WORKDIR /var/lib/croupier
EXPOSE 8000
# Of the API; whatever runs another command says how its health is seen.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["croupier"]
# It serves a house that somebody has a key of (`croupier keys create`), by the names that CROUPIER_HOSTS has.
CMD ["serve", "--host", "0.0.0.0"]
