// Runs pytest inside CPython 3.14, over folders of this machine; told by __main__.py.
import { loadPyodide } from "pyodide";

const { mounts, arguments: given, modules } = JSON.parse(process.argv[2]);
const python = await loadPyodide({ stdout: (line) => console.log(line), stderr: (line) => console.error(line) });
for (const [at, root] of Object.entries(mounts)) {
  python.FS.mkdirTree(at);
  python.FS.mount(python.FS.filesystems.NODEFS, { root }, at);
}
python.globals.set("given", python.toPy(given));
python.globals.set("modules", python.toPy(modules));
const code = await python.runPythonAsync(`
import asyncio, os, pathlib, ssl, sys, threading, warnings
sys.dont_write_bytecode = True
sys.platform = "linux"  # else httpx2 wants the browser's way to send
sys.path[:0] = ["/standing_in", "/repo", "/repo/shared", "/installed"]
os.chdir("/repo")
print(sys.version)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    for name in modules:
        path = f"shared/cab_client/{name}.py"
        compile(pathlib.Path(path).read_text("utf-8"), path, "exec")
import httpx2
httpx2.create_ssl_context = lambda *_, **__: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # no certificates here
import pytest
def no_loop(coroutine):
    coroutine.close()
    pytest.skip("no event loop that could be waited for")
asyncio.run = no_loop
threading.Thread.start = lambda _: pytest.skip("no threads")
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
int(pytest.main(list(given)))
`);
process.exit(code);
