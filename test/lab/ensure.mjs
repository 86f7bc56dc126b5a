// Run by npm before `demo` and `test`, with whatever Node (18 or newer) the machine has: sees to it that
// node_modules is what package-lock.json says and holds Node 24, which everything else runs on.
import { spawnSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Why node_modules cannot be used as it is; undefined when it can. */
function whatIsMissing() {
  // npm writes this file last, so it tells a finished installation from one cut short.
  const installed = statSync(`${root}node_modules/.package-lock.json`, { throwIfNoEntry: false });
  if (!installed) return 'node_modules is not installed';
  if (installed.mtimeMs < statSync(`${root}package-lock.json`).mtimeMs) return 'package-lock.json is newer';
  const node = spawnSync(`${root}node_modules/.bin/node`, ['--version'], { encoding: 'utf8' });
  if (!node.stdout?.startsWith('v24.')) return 'node_modules/.bin/node is not Node 24';
  return undefined;
}

const reason = whatIsMissing();
if (reason) {
  console.error(`lab: ${reason}: running npm ci (about half a minute)`);
  const npm = spawnSync('npm', ['ci', '--loglevel=error'], { cwd: root, stdio: 'inherit' });
  const still = npm.status === 0 ? whatIsMissing() : undefined;
  if (npm.error) fail(`npm cannot be run (${npm.error.message}); it comes with Node`);
  if (npm.status !== 0) fail(`npm ci failed with ${npm.signal ?? npm.status}: see above; it needs the network`);
  if (still) fail(`npm ci succeeded, but ${still}`);
}

function fail(message) {
  console.error(`lab: ${message}`);
  process.exit(1);
}
