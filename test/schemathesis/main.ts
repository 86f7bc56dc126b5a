// node test/schemathesis/main.ts: holds a running gateway against docs/openapi.json, with what schemathesis thinks of. Its options
// may follow; LXSTOW_LAB_EXAMPLES is how many requests it makes up for each operation.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openStack } from '../integration/stack.ts';
import { openFolder } from '../lab/folder.ts';
import { findSchemathesis } from '../lab/parts.ts';

const say = (line: string) => console.log(line);
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const examples = process.env.LXSTOW_LAB_EXAMPLES ?? '30';

const library = await findSchemathesis(say);
await using stack = await openStack('schemathesis', { config: { gateway: { deleteTimeoutMs: 10_000 } } });
await stack.launch('c1');
await stack.backup('c1');
await using folder = await openFolder('schemathesis', say);
const [cert, key] = [join(folder.path, 'client.crt'), join(folder.path, 'client.key')];
await writeFile(cert, stack.stow.client.cert);
await writeFile(key, stack.stow.client.key);
const args = [
  ...['-m', 'schemathesis.cli', '--config-file', here('schemathesis.toml')],
  ...['run', here('../../docs/openapi.json'), '--url', stack.stow.url],
  ...['--tls-verify', 'false', '--request-cert', cert, '--request-cert-key', key],
  ...['--seed', '1', '--max-examples', examples, '--phases', 'examples,coverage,fuzzing', '--workers', '1'],
  ...process.argv.slice(2),
];
const child = spawn('python3', args, {
  cwd: folder.path,
  env: { ...process.env, PYTHONPATH: library, PYTHONWARNINGS: 'ignore' },
  stdio: 'inherit',
});
const [status] = await once(child, 'close');
const failures = (await stack.stow.logOf('gateway')).split('\n').filter((line) => line.includes('"request failed"'));
for (const line of failures.slice(0, 20)) say(line);
process.exitCode = status === 0 && failures.length === 0 ? 0 : 1;
