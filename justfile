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

# Lint, types, formatting, shell, protobuf.
[group('check')]
lint: proto-check
    .venv/bin/ruff check
    .venv/bin/ruff format --check
    .venv/bin/mypy
    .venv/bin/shellcheck run.sh .ci/run
    npm install --no-save --silent --no-fund --no-audit
    node_modules/.bin/buf lint protos

# Ten minutes of mixed load with a failing LLM: prints figures, plots docs/performance/soak.svg.
[group('measure')]
soak minutes="10":
    .venv/bin/python -m benchmarks.soak --minutes {{ minutes }}

# Bytes a client and time a decision of the rate limit's store, up to a million clients.
[group('measure')]
bench-buckets:
    .venv/bin/python -m benchmarks.buckets

# What metrics and traces cost.
[group('measure')]
bench-telemetry:
    .venv/bin/python -m benchmarks.telemetry

# Start-up against a bare app.
[group('measure')]
bench-startup:
    .venv/bin/python -m benchmarks.startup

# Format the code.
[group('change')]
format:
    .venv/bin/ruff check --fix --quiet
    .venv/bin/ruff format

# Generate src/generated from the proto file.
[group('change')]
proto out=".":
    .venv/bin/python -m grpc_tools.protoc --proto_path=src/generated=protos/genkit/sample/v1 \
        --python_out={{ out }} --pyi_out={{ out }} --grpc_python_out={{ out }} src/generated/service.proto

# Check that src/generated is what the proto file gives.
[group('check')]
proto-check:
    #!/usr/bin/env bash
    set -euo pipefail
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    {{ just_executable() }} --quiet proto "$fresh"
    for file in service_pb2.py service_pb2.pyi service_pb2_grpc.py; do
        diff -q "$fresh/src/generated/$file" "src/generated/$file" || { echo "run 'just proto'"; exit 1; }
    done

# Pin the newest versions that pyproject.toml allows, with hashes.
[group('change')]
lock:
    .venv/bin/uv pip compile --upgrade {{ pins }} pyproject.toml -o requirements/runtime.txt
    .venv/bin/uv pip compile --upgrade {{ pins }} pyproject.toml --extra dev -c requirements/runtime.txt -o requirements/dev.txt
    ! grep -nE '://|^--' requirements/*.txt

pins := "--quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate"
