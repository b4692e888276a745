FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/nightfleet \
    && /opt/nightfleet/bin/pip install --no-cache-dir --constraint constraints.txt '.[all]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home nightfleet
COPY --from=build /opt/nightfleet /opt/nightfleet
ENV PATH=/opt/nightfleet/bin:$PATH PYTHONUNBUFFERED=1
USER nightfleet
WORKDIR /home/nightfleet
CMD ["nightfleet", "worker"]
