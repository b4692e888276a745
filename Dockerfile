# One image for every process of a fleet: `worker`, `beat`, `flower`, `db upgrade`.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
# What is installed changes less often than what is ours: it stays in a layer of its own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY orchestrator/__init__.py orchestrator/__init__.py
COPY worker/__init__.py worker/__init__.py
RUN mkdir agents config \
    && python -m venv --without-pip /opt/nightfleet \
    && pip --python /opt/nightfleet/bin/python install --no-cache-dir --constraint constraints.txt '.[all]'
COPY . .
RUN pip --python /opt/nightfleet/bin/python install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /app nightfleet
COPY --from=build /opt/nightfleet /opt/nightfleet
ENV PATH=/opt/nightfleet/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
# `agents/` and `config/` here, if they are mounted, come before those that ship.
WORKDIR /app
CMD ["nightfleet", "worker"]
