# Recipes for a checkout. What they need of Python they install into .venv; what else is missing they name.
set shell := ["bash", "-euo", "pipefail", "-c"]

# List the recipes.
[private]
default:
    @{{ just_executable() }} --list --unsorted

# Start the service in debug mode; flags follow.
[group('run')]
run *flags:
    ./run.sh {{ flags }}

# Run the whole test suite; pytest's arguments follow.
[group('check')]
test *arguments:
    ./run.sh test {{ arguments }}

# Attack and load the live service, one server a test in turn; pytest's arguments follow.
[group('check')]
live *arguments: _python _node
    .venv/bin/python -m pytest tests/stress {{ arguments }}

# The same, each test under every server.
[group('check')]
live-all *arguments: _python _node
    .venv/bin/python -m pytest tests/stress --all-servers {{ arguments }}

# Hostile input of all kinds on the live service for so many minutes, other each time; `--seed` and pytest's arguments follow.
[group('check')]
fuzz minutes="1" *arguments: _python
    .venv/bin/python -m pytest tests/fuzz --minutes {{ minutes }} {{ arguments }}

# Follow the pages for adopters in copies of this checkout, on a bare machine, and run the whole suite there.
[group('check')]
adoption *arguments: _python _node
    .venv/bin/python -m pytest tests/adopt {{ arguments }}

# Linters, formatting, types; no network but for what is not installed yet.
[group('check')]
check: _python _node _proto-check
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    .venv/bin/python -m tools.docstrings
    .venv/bin/shellcheck run.sh .ci/run tools/container/stand_ins.sh
    {{ schema }} vendor.github-workflows .github/workflows/*.yml
    {{ schema }} vendor.dependabot .github/dependabot.yml
    .venv/bin/zizmor --offline --quiet .github
    node_modules/.bin/buf lint protos

# All that can be said without running it: security, then check.
[group('check')]
lint: security check

# Known vulnerabilities of what is pinned (pip-audit); asks OSV over the internet, fails when it can't.
[group('supply chain')]
audit *options: _python
    .venv/bin/python -m tools.audit requirements/dev.txt {{ options }}

# Licences of what ships, against the allowlist in pyproject.toml.
[group('supply chain')]
licenses: _python
    .venv/bin/python -W ignore::UserWarning -m liccheck.command_line --level PARANOID --no-deps -r requirements/extras.txt

# Vulnerabilities by two tools (pysentry-rs, pip-audit), and licences.
[group('supply chain')]
security: _python audit licenses
    .venv/bin/pysentry-rs --no-config --no-resolver --compact --fail-on low --forbid-quarantined --requirements-files requirements/dev.txt

# Bill of materials of what the image holds, as CycloneDX: build/sbom.json.
[group('supply chain')]
sbom: _python
    .venv/bin/uv venv --quiet --clear build/runtime
    .venv/bin/uv pip install --quiet --python build/runtime --no-deps --require-hashes -r requirements/image.txt
    {{ tool }} --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o build/sbom.json build/runtime
    @.venv/bin/python -c 'import json, pathlib, src; file = pathlib.Path("build/sbom.json"); bom = json.loads(file.read_text()); bom["metadata"]["component"]["version"] = src.__version__; file.write_text(json.dumps(bom, indent=2) + "\n")'
    @echo build/sbom.json

# Build the image on stand-ins of its base images, run it, and hold it to docs/container.md (as root, or with a user namespace).
[group('ship')]
container-check: _python
    .venv/bin/python -m tools.container.check

# Speed and memory against bare apps, and against the last run; writes docs/performance.
[group('measure')]
bench *options: _python
    .venv/bin/python -m benchmarks {{ options }}

# Ten minutes of mixed load with a failing LLM: prints figures, plots docs/performance/soak.svg.
[group('measure')]
soak minutes="10": _python
    .venv/bin/python -m benchmarks.soak --minutes {{ minutes }}

# Bytes a client and time a decision of the rate limit's store, up to a million clients.
[group('measure')]
bench-buckets: _python
    .venv/bin/python -m benchmarks.buckets

# What metrics and traces cost.
[group('measure')]
bench-telemetry: _python
    .venv/bin/python -m benchmarks.telemetry

# Start-up against a bare app.
[group('measure')]
bench-startup: _python
    .venv/bin/python -m benchmarks.startup

# Format the code.
[group('change')]
format: _python
    .venv/bin/ruff check --fix --quiet
    .venv/bin/ruff format

# Generate src/generated from the proto file.
[group('change')]
proto out=".": _python
    .venv/bin/python -m grpc_tools.protoc --proto_path=src/generated=protos/genkit/sample/v1 \
        --python_out={{ out }} --pyi_out={{ out }} --grpc_python_out={{ out }} src/generated/service.proto

# Build the documentation site into build/site; a warning is an error.
[group('change')]
docs: _python
    @command -v dot >/dev/null || { echo "error: graphviz is needed (Debian: apt install graphviz)" >&2; exit 1; }
    NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

# Show it at http://127.0.0.1:8000 while it is written.
[group('change')]
docs-serve: _python
    NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs serve

# Make it your own service: `just rename invoice-helper`.
[group('change')]
rename name: _python
    .venv/bin/python -m tools.rename {{ name }}

# Remove a flow with all that is only its own, by its name, path or RPC.
[group('change')]
remove-flow name: _python
    .venv/bin/python -m tools.remove_flow {{ name }}

# Remove a part by its name in the table of docs/adopting.md.
[group('change')]
remove-part name: _python
    .venv/bin/python -m tools.remove_part "{{ name }}"

# Write .local.env.example from Settings.
[group('change')]
env-example: _python
    .venv/bin/python -m tools.env_example

# Pin the newest versions that pyproject.toml allows, with hashes: what runs, with every extra, for development, in the image.
[group('change')]
lock: _python
    {{ pin }} -o requirements/runtime.txt
    {{ pin }} --extra all -c requirements/runtime.txt -o requirements/extras.txt
    {{ pin }} --extra dev -c requirements/extras.txt -o requirements/dev.txt
    {{ pin }} {{ not_in_image }} -c requirements/runtime.txt -o requirements/image.txt
    ! grep -nE '://|^--' requirements/*.txt

pin := ".venv/bin/uv pip compile --upgrade --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml"
# What no request comes to: Vertex AI and what only it needs, the SDK's own handling of images, look-ups of mail hosts,
# type stubs. `just container-check` runs the image without them.
not_in_image := replace_regex("google-cloud-aiplatform google-cloud-bigquery google-cloud-core google-cloud-resource-manager google-cloud-storage google-crc32c google-resumable-media grpc-google-iam-v1 proto-plus docstring-parser google-api-core python-dateutil pillow dnspython types-aiofiles types-pyyaml", '(\S+)', '--no-emit-package $1')

# Tools whose packages must not be among those that the tests run with.
tool := ".venv/bin/uv tool run --quiet"
schema := tool + " --from check-jsonschema==0.39.0 check-jsonschema --builtin-schema"

_python:
    @./run.sh setup

_node:
    @command -v npm >/dev/null || { echo "error: npm is needed (Debian: apt install nodejs npm)" >&2; exit 1; }
    @npm install --no-save --silent --no-fund --no-audit

# Check that src/generated is what the proto file gives.
_proto-check:
    #!/usr/bin/env bash
    set -euo pipefail
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    {{ just_executable() }} --quiet proto "$fresh"
    for file in service_pb2.py service_pb2.pyi service_pb2_grpc.py; do
        diff -q "$fresh/src/generated/$file" "src/generated/$file" || { echo "error: run 'just proto'" >&2; exit 1; }
    done
