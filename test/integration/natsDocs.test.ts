/** The examples in docs/nats.md, and README.md's, run as they are: only the server's address and the path of its certificate are others. */
import assert from 'node:assert/strict';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type LabNatsWithRoles, startNatsWithRoles } from '../lab/nats.ts';
import { findNatsCli, findNatsPy } from '../lab/parts.ts';
import { errorText, run } from '../lab/run.ts';
import { openStack, type Stack } from './stack.ts';

const quiet = () => undefined;

describe('the examples in docs/nats.md', { timeout: 900_000 }, () => {
  let nats: LabNatsWithRoles;
  let stack: Stack;
  let folder: LabFolder;
  before(async () => {
    nats = await startNatsWithRoles({ name: 'natsdocs', log: quiet });
    stack = await openStack('natsdocs', { nats });
    folder = await openFolder('natsdocs-examples', quiet);
    await stack.launch('c1', { dataMiB: 1 });
    await stack.backup('c1');
  });
  after(async () => {
    await folder?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
    await nats?.[Symbol.asyncDispose]();
  });

  /** The example in this language, under this heading. */
  async function example(language: string, file = 'docs/nats.md', heading = '## Examples'): Promise<string> {
    const page = await readFile(new URL(`../../${file}`, import.meta.url), 'utf8');
    const [, text] = page.split(`${heading}\n`)[1]?.split(`\`\`\`${language}\n`) ?? [];
    assert.ok(text);
    return (text.split('\n```')[0] ?? '')
      .replaceAll('tls://127.0.0.1:4222', nats.url)
      .replaceAll('/etc/nats/server.crt', nats.ca);
  }

  const environment = (more: NodeJS.ProcessEnv) => ({
    ...process.env,
    PUBLISHER_PASSWORD: nats.passwords.publisher,
    XDG_CONFIG_HOME: folder.path,
    ...more,
  });

  /** The part, or undefined where it cannot be had on this machine: the test is skipped then. */
  async function part(context: TestContext, find: (log: typeof quiet) => Promise<string>): Promise<string | undefined> {
    try {
      return await find(quiet);
    } catch (error) {
      context.skip(errorText(error));
      return undefined;
    }
  }

  it('the nats CLI', async (context) => {
    const cli = await part(context, findNatsCli);
    if (cli === undefined) return;
    const bin = join(folder.path, 'bin');
    await mkdir(bin);
    await symlink(cli, join(bin, 'nats'));
    const script = `set -euo pipefail; exec 2>&1\n${await example('sh')}\n${await example('sh', 'README.md', '## Over NATS')}`;
    const said = await run('bash', ['-c', script], { env: environment({ PATH: `${bin}:${process.env.PATH}` }) });
    // Waited for twice, and two in the list.
    assert.equal(said.match(/"status":"Success","status_code":200/g)?.length, 4);
    for (const expected of [
      /lxstow\.api\.backups\.list\.\*\.\*\.\*/,
      /"stream":\s?"LXSTOW_JOBS"/,
      /"backups":\[{"name":"backup_[^}]*}[^}]*"instance":"c1","project":"default"/,
      /"next":"c1\/backup_/,
      /Nats-Service-Error: backup c1\/nothing\.tar does not exist/,
      /Nats-Service-Error-Code: 404/,
      /Lxstow-Error-Code: not-found/,
    ])
      assert.match(said, expected);
  });

  it('Python', async (context) => {
    const path = await part(context, findNatsPy);
    if (path === undefined) return;
    const said = await run('python3', ['-c', await example('python')], { env: environment({ PYTHONPATH: path }) });
    assert.match(said, /^Success \nbackup_\S+ \d+\n/);
  });

  it('JavaScript', async () => {
    await symlink(fileURLToPath(new URL('../../node_modules', import.meta.url)), join(folder.path, 'node_modules'));
    const file = join(folder.path, 'example.mjs');
    await writeFile(file, await example('js'));
    assert.match(await run(process.execPath, [file], { env: environment({}) }), /^Success \nbackup_\S+ \d+\n/);
  });
});
