/** The command line as a user has it: a process of its own, its configuration in a folder, pipes and a terminal. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { cp, mkdtemp, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { loadConfig } from '../../services/contract/config.ts';
import type { Operation } from '../../services/contract/schemas.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { amend, begin, cancelled } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { lxstow } from '../lab/lxstow.ts';
import { attempt } from '../lab/run.ts';
import { onTerminal, openTerminal } from '../lab/terminal.ts';
import { publish } from './publisher.ts';
import { openStack, type Stack, until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const documentation = readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8');
const escapeCode = '\u001b';

/** A user without an entry in /etc/passwd, who may read what we may. */
const inUserNamespace = {
  skip:
    (await attempt('unshare', ['--user', '--map-user=54321', 'true'])).status !== 0 && 'there are no user namespaces',
};

describe('the command line', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let home: string;
  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'lxstow-cli-'));
    stack = await openStack('cli');
    await stack.launch('c1', { dataMiB: 8 });
    await stack.launch('c2', { dataMiB: 1 });
    const token = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'tester']);
    const add = [cli, 'remote', 'add', 'stow', '-'];
    const nothing = await attempt(process.execPath, add, { env: env(), cwd: home });
    assert.equal(nothing.status, 64);
    assert.match(nothing.stderr, /standard input has no token\n.*lxstow trust token NAME/);
    const added = await attempt(process.execPath, add, { env: env(), cwd: home, input: token });
    assert.equal(added.status, 0, added.stderr);
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });

  /** A person's: in CI, Node.js gives no terminal colours. */
  const env = () => ({ ...process.env, XDG_CONFIG_HOME: home, TERM: 'xterm', NO_COLOR: '', CI: undefined });
  async function run(...args: string[]) {
    const { status, stdout, stderr } = await attempt(process.execPath, [cli, ...args], { env: env(), cwd: home });
    return { status, stdout: stdout.toString(), bytes: stdout, stderr };
  }
  /** Its output; it must have gone well. */
  async function ok(...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await run(...args);
    assert.equal(status, 0, `${args.join(' ')}\n${stdout}${stderr}`);
    return stdout;
  }
  const named = (text: string) => [...text.matchAll(/`(\w+)`/g)].map(([, name = '']) => name);
  const json = async (...args: string[]) => JSON.parse(await ok(...args, '--format', 'json'));

  it('adds a gateway by its token, and keeps to its certificate', async () => {
    const [remote] = await json('remote', 'list');
    assert.equal(remote.url, stack.stow.url);
    assert.equal(remote.current, true);
    assert.match(remote.certificate, /BEGIN CERTIFICATE/);
    assert.equal((await stat(join(home, 'lxstow/client/client.key'))).mode & 0o777, 0o600);

    // The client's own certificate is not the gateway's.
    const pin = join(home, 'lxstow/servercerts/stow.crt');
    const right = await readFile(pin);
    await writeFile(pin, await readFile(join(home, 'lxstow/client/client.crt')));
    const { status, stderr } = await run('list');
    await writeFile(pin, right);
    assert.equal(status, 77, stderr);
    assert.match(stderr, /a different certificate/);
  });

  it('is in its project, where it is restricted to one', async () => {
    const other = await mkdtemp(join(home, 'restricted-'));
    const config = stack.stow.configFile;
    const nope = ['-c', config, 'trust', 'token', 'bob', '--project', 'nope'];
    await assert.rejects(lxstow(nope), /project nope does not exist on local/);
    const token = await lxstow(['-c', config, 'trust', 'token', 'bob', '--project', stack.project]);
    const as = (...args: string[]) =>
      attempt(process.execPath, [cli, ...args], { env: { ...env(), XDG_CONFIG_HOME: other, LXSTOW_TOKEN: token } });
    const added = await as('remote', 'add', 'co');
    assert.match(added.stdout.toString(), new RegExp(`^co is https.*, project ${stack.project}$`, 'm'));
    assert.equal((await as('list')).status, 0);
    const { status, stderr } = await as('list', '--project', 'default');
    assert.equal(status, 77);
    assert.match(stderr, /not in this project \(--project\)/);
  });

  it('takes no unknown certificate unseen, and no gateway that does not trust it', async () => {
    const other = await mkdtemp(join(home, 'other-'));
    const as = (...args: string[]) =>
      attempt(process.execPath, [cli, 'remote', 'add', 'x', ...args], { env: { ...env(), XDG_CONFIG_HOME: other } });
    const unseen = await as(stack.stow.url);
    assert.equal(unseen.status, 77);
    assert.match(unseen.stderr, /no trusted CA has signed: [0-9a-f]{64}/);
    const stranger = await as(stack.stow.url, '--accept-certificate');
    assert.equal(stranger.status, 77);
    assert.match(stranger.stderr, /does not trust this client yet.*\n.*client\.crt/);
    const [, file = ''] = /`lxstow trust add` with (.*)/.exec(stranger.stderr) ?? [];
    await lxstow(['-c', stack.stow.configFile, 'trust', 'add', file, '--name', 'stranger']);
    assert.equal((await as(stack.stow.url, '--accept-certificate', '--project', 'web')).status, 0);
    assert.equal((await as(stack.stow.url)).status, 73);
  });

  it('backs several up, in plain lines when piped, and says so in every format', async () => {
    const { status, stdout, stderr } = await run(
      'backup',
      'c1',
      'stow:c2',
      '--tag',
      'for=a b',
      '--compression',
      'none',
    );
    assert.equal(status, 0, stderr);
    assert.ok(!`${stdout}${stderr}`.includes(escapeCode));
    assert.match(
      stdout,
      /^INSTANCE +BACKUP +STATUS +SIZE +OPERATION\nc1 +backup_\S+\.tar +Success +\S+MiB +\S+\nstow:c2 +backup_/,
    );
    for (const label of ['c1', 'stow:c2']) assert.match(stderr, new RegExp(`^${label}: Success$`, 'm'));

    const [c1] = await json('list', 'c1');
    const info = await json('info', 'c1', 'latest');
    assert.deepEqual({ ...info, ...c1, tags: { for: 'a b' } }, info);
    assert.match(await ok('info', 'c1', c1.name), /^size: .*MiB \(\d+ bytes\)$/m);
    const [line = ''] = (await ok('list', '--format', 'csv')).split('\n');
    assert.match(line, /^c1,backup_[^,]+,[^,]+,[^,]+MiB,no,for=a b$/);
    const names = async (...args: string[]) =>
      (await json('list', 'c1', ...args)).map(({ name }: { name: string }) => name);
    assert.deepEqual(await names('--tag', 'for', '--tag', 'for=a b', '--before', '0m'), [c1.name]);
    for (const args of [
      ['--tag', 'for=b'],
      ['--tag', 'else'],
      ['--before', '1d'],
    ])
      assert.deepEqual(await names(...args), []);
    assert.match(await ok('list', 'c1', '--before', '2020-01-01'), /^there are no such backups$/m);
    const listed = parse(await ok('list', 'stow:', '--format', 'yaml'));
    assert.deepEqual(
      listed.map(({ instance }: { instance: string }) => instance),
      ['c1', 'c2'],
    );
  });

  it('names attached volumes, which are in no backup', async () => {
    const { lxd, pools, lab } = stack;
    const signal = AbortSignal.timeout(30_000);
    const volume = { type: 'disk', pool: pools.dir, source: 'photos', path: '/mnt' };
    await lab.lxd?.lxc(['storage', 'volume', 'create', pools.dir, 'photos']);
    const attach = (device: object) =>
      lxd.call({ method: 'PATCH', path: '/1.0/instances/c2', body: { devices: { album: device } }, signal });
    await attach(volume);
    const { status, stderr } = await run('backup', 'c2', '-q');
    assert.equal(status, 0, stderr);
    assert.equal(
      stderr,
      `lxstow: c2: not in this backup: custom volume photos of pool ${pools.dir}, attached as album\n`,
    );
    const shown = await json('info', 'c2', 'latest');
    assert.deepEqual(shown.excluded_volumes, [`${pools.dir}/photos`]);
    assert.equal((await run('backup', '--selector', 'name=c2', '-q')).stderr, stderr, 'as one of a run, too');
    const changed = await stack.stow.request('PUT', `/1.0/instances/c2/backups/${shown.name}`, { body: shown });
    assert.equal(changed.status, 200, 'it may be sent back as it is shown');
    await attach({ type: 'none' });
    await lab.lxd?.lxc(['storage', 'volume', 'delete', pools.dir, 'photos']);
  });

  it('suggests what was meant', async () => {
    const today = ((await json('list', 'c1'))[0] as { created: string }).created.slice(0, 10);
    for (const [args, hint] of [
      [['backup', 'C11', '-q'], /did you mean c1\?/],
      [['list', 'c22'], /did you mean c[12]\?/],
      [['info', 'c1', 'latst'], /did you mean latest\?/],
      [['restore', 'c1', '2001-01-01', '--as', 'c9'], /to see all its backups: lxstow list c1/],
      [['restore', 'c1', today, '--as', 'c9'], /of that day \(UTC\): backup_/],
      [['restore', 'c1', 'latest', '--as', 'c9', '--pool', 'nopool'], /nopool does not exist[^\n]*\n$/],
      [['list', 'stw:c1'], /did you mean stow:/],
    ] as const) {
      const { status, stderr } = await run(...args);
      assert.equal(status, 66, stderr);
      assert.match(stderr, hint);
    }
    const { status, stderr } = await run('bakup');
    assert.equal(status, 64);
    assert.match(stderr, /^lxstow: .*\n.*Did you mean backup\?/);
  });

  it('says once what several have failed by', async () => {
    await stack.stow.gateway.stop();
    const { status, stderr } = await run('backup', 'c1', 'c2', '-q');
    await stack.stow.gateway.start();
    assert.equal(status, 69, stderr);
    assert.match(stderr, /^lxstow: c1, c2: stow \(\S+\) cannot be reached: nothing listens there$/m);
    assert.equal(stderr.split('cannot be reached').length, 2);
  });

  for (const [what, args] of [
    ['backups', ['c1', 'c2']],
    ['one run', ['--all']],
  ] as const)
    it(`with --retry begins ${what} when the gateway is there again; and gives up when that takes too long`, async () => {
      await stack.stow.gateway.stop();
      assert.equal((await run('backup', ...args, '-q', '--retry', '1s')).status, 69);
      const child = spawn(process.execPath, [cli, 'backup', ...args, '--retry', '5m'], { env: env(), cwd: home });
      let said = '';
      child.stderr.on('data', (text) => {
        said += text;
      });
      const ended = new Promise((resolve) => child.on('exit', resolve));
      await until(
        async () => said,
        (text) => text.includes('trying again'),
      );
      await stack.stow.gateway.start();
      assert.equal(await ended, 0, said);
      assert.equal(said.split('trying again').length, 2, said);
      assert.equal((await run('backup', ...args, '--retry', 'soon')).status, 64);
    });

  it('goes on with the others when one fails, and says that one did', async () => {
    const away = await run('backup', 'c1', 'c2', '--notify', 'http://10.0.0.1/');
    assert.match(away.stderr, /^lxstow: c1, c2: notifyEndpoint: 10\.0\.0\.1 .*notify\.allowed/m);
    assert.match(
      (await run('restore', 'c1', 'latest', '--as', 'bad name')).stderr,
      /^lxstow: --as: "bad name" is not allowed/m,
    );
    const { status, stdout, stderr } = await run('backup', 'nobody', 'c2', '--format', 'json');
    assert.equal(status, 66, stderr);
    assert.match(stderr, /^lxstow: nobody: instance nobody does not exist/m);
    const [nobody, c2] = JSON.parse(stdout);
    assert.equal(nobody.status, 'Failure');
    assert.equal(c2.status, 'Success');
    assert.ok(c2.size > 0);
  });

  it('backs up all, or those that a selector fits, as one run', async () => {
    const { status, stdout, stderr } = await run('backup', '--all', '--compression', 'none', '--tag', 'by=run');
    assert.equal(status, 0, stderr);
    assert.equal(stdout, '2 of 2 backed up\n');
    assert.match(stderr, /^run \S+: Running: \d of 2 done/m);
    for (const label of ['c1', 'c2']) assert.match(stderr, new RegExp(`^${label}: Success$`, 'm'));
    const newest = await json('info', 'c1', 'latest');
    assert.deepEqual([newest.tags, newest.compression_algorithm], [{ by: 'run' }, 'none']);

    const selected = await json('backup', 'stow:', '--selector', 'name=c2', '--selector', 'type=container', '-q');
    assert.deepEqual(
      [selected.status, selected.counts.total, selected.counts.success, selected.selector.projects],
      ['Success', 1, 1, ['default']],
    );
    const begun = await json('backup', '--selector', 'name=c2', '--no-wait', '-q');
    assert.equal(begun.status, 'Running');
    assert.equal(await ok('run', 'watch', begun.id, '-q'), '1 of 1 backed up\n');

    assert.equal((await run('backup', '--selector', 'user.backup=daily')).status, 66);
    for (const wrong of [
      ['c1', '--all'],
      ['--all', '--name', 'x'],
      ['--selector', '=x'],
      ['stow:', 'other:', '--all'],
    ])
      assert.equal((await run('backup', ...wrong)).status, 64, wrong.join(' '));
    assert.match((await run('backup', '--all', '--notify', 'http://10.0.0.1/')).stderr, /^lxstow: .*notify\.allowed/m);
  });

  it('watches operations by events: each state of each, also of those behind a restart of the gateway', async (t) => {
    const child = spawn(process.execPath, [cli, 'operations', 'watch', '--format', 'json'], { env: env(), cwd: home });
    t.after(() => child.kill());
    const ended = once(child, 'exit');
    let printed = '';
    child.stdout.on('data', (data) => {
      printed += data;
    });
    const seen = async () =>
      printed
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as Operation);
    const backUp = async () => {
      const [{ operation }] = await json('backup', 'c2', '-q');
      const of = await until(
        async () => (await seen()).filter(({ id }) => id === operation),
        (found) => found.at(-1)?.status === 'Success',
      );
      assert.equal(of.filter(({ status }) => status === 'Success').length, 1);
    };
    // A small backup may be over before the other command listens.
    await until(
      async () => {
        await json('backup', 'c2', '-q');
        return seen();
      },
      ({ length }) => length > 0,
    );
    await backUp();
    await stack.stow.gateway.stop();
    await stack.stow.gateway.start();
    await backUp();
    child.kill('SIGINT');
    assert.deepEqual(await ended, [130, null]);
  });

  it('has the fields in JSON that docs/cli.md says, waited for or not, and for people their own clock', async () => {
    const rows = [...documentation.matchAll(/^\| `([a-z ]+)` \| an? (array|object)[^|]* \| (.*) \|$/gm)];
    const fields = new Map(rows.map(([, command = '', , text = '']) => [command, named(text.split(';')[0] ?? '')]));
    fields.set('info', [
      ...(fields.get('list') ?? []),
      ...(fields.get('info') ?? []).filter((each) => each !== 'list'),
    ]);
    fields.set('operations show', fields.get('operations list') ?? []);
    const beside = ['-c', stack.stow.configFile];
    const [{ operation }] = await json('backup', 'c2', '--no-wait', '-q');
    await ok('backup', 'c2', '-q');
    await ok('schedule', 'create', 'yearly', '--cron', '@yearly', '--all');
    const calls: [command: string, args: string[], status?: number][] = [
      ['backup', ['backup', 'c2', '-q']],
      ['backup', ['backup', 'c2', '--no-wait']],
      ['backup', ['backup', 'nobody'], 66],
      ['restore', ['restore', 'c2', 'latest', '--as', 'shaped', '-q']],
      ['restore', ['restore', 'c1', 'latest', '--as', 'shaped', '--replace', '--no-wait']],
      ['restore', ['restore', '--all', '-q'], 73],
      ['list', ['list', 'c2']],
      ['list', ['list', '--all']],
      ['info', ['info', 'c2', 'latest']],
      ['prune', ['prune', 'c2', '--keep-last', '2', '-q']],
      ['schedule list', ['schedule']],
      ['schedule next', ['schedule', 'next', 'yearly']],
      ['operations list', ['operations']],
      ['operations show', ['operations', 'show', operation]],
      ['remote list', ['remote', 'list']],
      ['trust list', [...beside, 'trust', 'list']],
      ['doctor', [...beside, 'doctor', '--only', 'nats']],
    ];
    for (const [command, args, wanted = 0] of calls) {
      const { status, stdout, stderr } = await run(...args, '--format', 'json');
      assert.equal(status, wanted, `${args.join(' ')}\n${stderr}`);
      const shown = JSON.parse(stdout);
      const [, , shape] = rows.find(([, name]) => name === command) ?? [];
      assert.equal(Array.isArray(shown) ? 'array' : 'object', shape, args.join(' '));
      assert.deepEqual(Object.keys([shown].flat()[0]).sort(), fields.get(command)?.toSorted(), args.join(' '));
    }
    assert.deepEqual(
      [...new Set(calls.map(([command]) => command))].sort(),
      rows.map(([, command]) => command).sort(),
      'each that is documented',
    );
    await until(
      async () => (await json('operations')) as Operation[],
      (all) => all.every(({ status_code }) => status_code >= 200),
    );
    await stack.remove('shaped');

    const there = { env: { ...env(), TZ: 'Asia/Kolkata' }, cwd: home };
    const table = (await attempt(process.execPath, [cli, 'list', 'c2'], there)).stdout.toString();
    assert.match(table, /CREATED \(UTC\) +LOCAL +SIZE/);
    const [, at, here] = /(\d{4}-\S+ \S+) +(\d{4}-\S+ \S+)/.exec(table) ?? [];
    assert.equal(Date.parse(`${here}Z`) - Date.parse(`${at}Z`), 5.5 * 3_600_000);
    const info = (await attempt(process.execPath, [cli, 'info', 'c2', 'latest'], there)).stdout.toString();
    assert.match(info, /^created: \S+Z \(\S+ \S+ here\)$/m);
    assert.match(info, /^expires_at: never$/m);
    assert.match(info, /^raw_size: \S+[KM]iB \(\d+ bytes\)$/m);
  });

  it('restores the latest, under another name', async () => {
    const early = await run('restore', 'c2', '--at', '2020-01-01', '--as', 'c2-then');
    assert.equal(early.status, 66);
    assert.match(early.stderr, /c2 has no backup from before 2020-01-02T00:00:00\.000Z\n {2}the oldest one is backup_/);
    const middle = await stack.backup('c2');
    const then = new Date(Math.ceil(Date.now() / 1000) * 1000);
    await until(
      async () => Date.now(),
      (now) => now > then.getTime(),
    );
    const newest = await stack.backup('c2');
    const backups: { name: string }[] = await json('list', 'c2');
    assert.ok(backups.length >= 3 && backups.at(-2)?.name === middle && backups.at(-1)?.name === newest);
    const [restored] = await json(
      'restore',
      'c2',
      '--at',
      then.toISOString().replace('.000', ''),
      '--as',
      'c2-then',
      '-q',
    );
    assert.equal(restored.name, middle);
    await stack.remove('c2-then');
    assert.equal((await run('restore', 'c2', 'latest', '--at', '1d')).status, 64);
    const taken = await run('restore', 'c2', '--at', '0m');
    assert.equal(taken.status, 73);
    assert.match(taken.stderr, /c2 already exists/);
    assert.match(await ok('restore', 'c2', 'latest', '--as', 'c3', '-q'), /^c3 +backup_\S+ +Success/m);
    assert.ok((await stack.fingerprint('c3')).size > 0);
    await stack.remove('c3');
  });

  it('does not take a backup for the latest that a clock which was ahead has dated', async () => {
    const { name } = await json('info', 'c2', 'latest');
    const [bucket, folder] = [stack.s3.bucket, 'local/default/c2'];
    const stored = await stack.bucket().getObject(bucket, `${folder}/${name}.manifest.json`);
    const manifest = JSON.parse(Buffer.concat(await stored.toArray()).toString());
    const ahead = `${folder}/ahead-${name}.manifest.json`;
    const backup = { ...manifest.backup, name: `ahead-${name}`, created: '2999-01-01T00:00:00.000Z' };
    await stack.bucket().putObject(bucket, ahead, JSON.stringify({ ...manifest, backup }));
    assert.equal((await json('list', 'c2')).at(-1).name, `ahead-${name}`);
    const shown = await run('info', 'c2', 'latest', '--format', 'json');
    assert.equal(JSON.parse(shown.stdout).name, name);
    assert.equal(
      shown.stderr,
      `lxstow: c2: ahead-${name} is dated in the future, by a wrong clock; ${name} is taken instead\n`,
    );
    // Both exist, so neither is restored.
    for (const args of [['--all'], ['c2', '--at', '3000-01-01']]) {
      const { status, stdout, stderr } = await run('restore', ...args, '--format', 'json');
      assert.equal(status, 73, stderr);
      assert.match(stderr, new RegExp(`c2: .*; ${name} is taken instead`));
      if (stdout === '') continue;
      const sources: { instance: string; name: string }[] = JSON.parse(stdout).map(
        ({ source }: { source: object }) => source,
      );
      assert.equal(sources.find(({ instance }) => instance === 'c2')?.name, name);
    }
    await stack.bucket().removeObject(bucket, ahead);
  });

  it('exports to a file, goes on where it was cut, and never over what is there', async () => {
    await ok('export', 'c1', 'latest', 'whole.tar', '-q');
    const whole = await readFile(join(home, 'whole.tar'));
    assert.ok(whole.equals((await run('export', 'c1', 'latest', '-', '-q')).bytes));
    assert.equal((await run('export', 'c1', 'latest', 'whole.tar')).status, 73);

    // As one leaves it that was killed.
    const { headers } = await stack.stow.request('HEAD', `/1.0/instances/c1/backups/${await latest()}/export`);
    const part = join(home, `half.tar.${String(headers.etag).replaceAll('"', '')}.part`);
    await writeFile(part, whole);
    await truncate(part, 1_000_000);
    const { status, stderr } = await run('export', 'c1', 'latest', 'half.tar');
    assert.equal(status, 0, stderr);
    assert.ok(whole.equals(await readFile(join(home, 'half.tar'))));
    assert.deepEqual(
      (await readdir(home)).filter((name) => name.endsWith('.part')),
      [],
    );
  });

  const latest = async () => (await json('info', 'c1', 'latest')).name;

  it('deletes by name', async () => {
    const [{ name }] = await json('list', 'c2');
    assert.equal(await ok('delete', 'c2', name), `c2/${name} is deleted\n`);
    assert.equal((await run('delete', 'c2', name)).status, 66);
    assert.equal((await run('delete', 'c2', 'latest')).status, 64);
  });

  it('completes commands, options, instances and backups', async () => {
    const complete = async (...words: string[]) => (await ok('__complete', '--', ...words)).trimEnd().split('\n');
    assert.deepEqual(await complete('ba'), ['backup']);
    assert.deepEqual(await complete('backup', '--sel'), ['--selector']);
    assert.deepEqual(await complete('backup', '--compression', 'g'), ['gzip']);
    assert.deepEqual(await complete('restore', 'stow:c'), ['stow:c1', 'stow:c2']);
    assert.deepEqual(await complete('restore', 'c1', 'la'), ['latest']);
    assert.deepEqual(await complete('backup', 's'), ['stow:']);
    assert.match(await ok('completion', 'bash'), /complete .*-F _lxstow lxstow/);
  });

  it('takes an instance named all for what it is', async () => {
    await stack.launch('all', { dataMiB: 1 });
    const [{ name: backup }] = await json('backup', 'all', '-q');
    await ok('backup', 'c2', '-q');
    assert.deepEqual(
      (await json('list', 'all')).map(({ name }: { name: string }) => name),
      [backup],
    );
    await ok('restore', 'all', 'latest', '--as', 'all2', '-q');
  });

  it('says by its status what became of the backup, whoever reads its output', async () => {
    const shell = async (redirected: string, ...args: string[]) => {
      const command = `"$@" ${redirected}; exit \${PIPESTATUS[0]}`;
      const given = ['-c', command, 'bash', process.execPath, cli, ...args];
      const { status, stderr } = await attempt('bash', given, { env: env(), cwd: home });
      return [status, stderr];
    };
    const csv = ['-q', '--format', 'csv'];
    assert.deepEqual(await shell('| true', 'backup', 'c2', ...csv), [0, '']);
    assert.equal((await shell('| true', 'backup', 'nobody', 'c2', ...csv))[0], 66);
    assert.deepEqual(await shell('| true', 'list', '--all'), [0, '']);
    const [status, stderr] = await shell('> /dev/full', 'backup', 'c2', ...csv);
    assert.equal(status, 74);
    assert.match(String(stderr), /^lxstow: standard output: ENOSPC: [^\n]*\n$/);
    assert.equal((await shell('> /dev/full', 'backup', 'nobody', 'c2', ...csv))[0], 66);
    assert.equal((await shell('2> /dev/full', 'backup', 'c2'))[0], 0);
  });

  it('says beside the operations how many dead letters there are', async () => {
    await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c1', '{', randomUUID());
    const { stderr } = await until(
      () => run('operations'),
      (each) => each.stderr !== '',
    );
    assert.equal(stderr, 'lxstow: 1 dead letter; lxstow dead-letters list\n');
  });

  it('needs no entry in /etc/passwd, but a home', inUserNamespace, async () => {
    const as = async (variables: Record<string, string>, ...args: string[]) => {
      const uid = ['--user', '--map-user=54321', '--map-group=54321'];
      const { HOME: _, USER: __, XDG_CONFIG_HOME: ___, ...rest } = env() as NodeJS.ProcessEnv;
      return attempt('unshare', [...uid, process.execPath, cli, ...args], { env: { ...rest, ...variables } });
    };
    const config = await mkdtemp(join(home, 'nobody-'));
    const token = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'nobody']);
    const added = await as({ XDG_CONFIG_HOME: config }, 'remote', 'add', 'stow', token.trim());
    assert.equal(added.status, 0, added.stderr);
    const { subject } = new X509Certificate(await readFile(join(config, 'lxstow/client/client.crt')));
    assert.match(subject, /CN=uid-54321@/);
    const homeless = await as({}, 'list');
    assert.deepEqual([homeless.status, homeless.stderr.split('\n').length], [78, 3], homeless.stderr);
    assert.match(homeless.stderr, /no home directory.*\n {2}set HOME or XDG_CONFIG_HOME/);
  });

  it('says what is wrong with its own certificate', async () => {
    const own = await mkdtemp(join(home, 'own-'));
    await cp(join(home, 'lxstow'), join(own, 'lxstow'), { recursive: true });
    const key = join(own, 'lxstow/client/client.key');
    const swapped = await readFile(join(own, 'lxstow/client/client.crt'));
    for (const [text, said] of [
      [(await makeCertificate({ commonName: 'other' })).key, /does not belong to the certificate/],
      [swapped, /client.key cannot be used/],
      ['', /client.key cannot be used/],
    ] as const) {
      await writeFile(key, text);
      const { status, stderr } = await attempt(process.execPath, [cli, 'list'], {
        env: { ...env(), XDG_CONFIG_HOME: own },
      });
      assert.deepEqual([status, stderr.split('\n').length], [78, 3], stderr);
      assert.match(stderr, said);
    }
  });

  it('says what is wrong when there is no gateway', async () => {
    const nobody = await mkdtemp(join(home, 'nobody-'));
    const { status, stderr } = await attempt(process.execPath, [cli, 'list'], {
      env: { ...env(), XDG_CONFIG_HOME: nobody },
    });
    assert.equal(status, 78);
    assert.match(stderr, /lxstow remote add/);
  });

  describe('where no worker is', () => {
    let nats: Nats;
    let store: OperationStore;
    before(async () => {
      for (const worker of stack.stow.workers) await worker.stop();
      const config = loadConfig({ file: stack.stow.configFile, env: {} });
      nats = await connectNats(config.nats, 'test', createLogger({ ...config.log, level: 'error' }, {}));
      store = new OperationStore(nats, 1);
    });
    after(() => nats?.[Symbol.asyncDispose]());

    /** Changes it as a worker would. */
    async function change(id: string, to: (found: Awaited<ReturnType<OperationStore['find']>> & object) => object) {
      const found = await store.find(id, '*');
      assert.ok(found);
      assert.ok(await store.update(to(found) as typeof found.operation, found.revision));
    }
    const now = () => new Date();
    const running = (id: string) =>
      change(id, ({ operation }) =>
        amend(
          begin(operation, 'test', now()),
          {
            metadata: {
              stage: 'uploading',
              bytes_done: 1024 ** 3 / 4,
              bytes_total: 1024 ** 3,
              bytes_per_second: 1024 ** 2 * 64,
            },
          },
          now(),
        ),
      );
    const unfinished = async (): Promise<string[]> => {
      const { body } = await stack.stow.request('GET', '/1.0/operations?recursion=1');
      const { pending = [], running: begun = [], cancelling = [] } = body.metadata;
      return [...pending, ...begun, ...cancelling]
        .filter((each: { class: string }) => each.class === 'task')
        .map(({ id }) => id);
    };

    const terminal = (args: string[], more: NodeJS.ProcessEnv = {}) =>
      openTerminal([process.execPath, cli, ...args], { ...env(), ...more });
    const shows = (seen: () => string, what: RegExp) =>
      until(
        async () => seen(),
        (text) => what.test(text),
      );

    it('returns at once with --no-wait; cancel ends it', async () => {
      const [{ status, operation }] = await json('backup', 'c1', '--no-wait');
      assert.equal(status, 'Pending');
      assert.match(
        await ok('operations', '--format', 'csv'),
        new RegExp(`^${operation},Pending,Backing up instance,c1,`, 'm'),
      );
      assert.match(await ok('cancel', operation), /is being cancelled/);
      assert.deepEqual(await unfinished(), []);
      assert.equal((await run('cancel', operation)).status, 64);
    });

    it('does not export a backup that is still being made', async () => {
      const [{ operation }] = await json('backup', 'c1', '--name', 'early', '--no-wait');
      const { status, stderr } = await run('export', 'c1', 'early', '-');
      assert.deepEqual([status, stderr], [73, 'lxstow: c1/early is still being made: pending\n']);
      await ok('cancel', operation);
    });

    it('draws bars on a terminal; Ctrl-C cancels, and waits until that is done', onTerminal, async () => {
      const { child, seen, ended } = terminal(['backup', 'c1']);
      const [id = ''] = await until(unfinished, (ids) => ids.length === 1);
      await running(id);
      await shows(seen, /c1 +uploading +\[=====> +\] +25% +256\.00MiB\/1\.00GiB +64\.00MiB\/s +0:12 left/);
      child.stdin?.write('\x03');
      await until(
        async () => (await store.find(id, '*'))?.operation.status,
        (status) => status === 'Cancelling',
      );
      await shows(seen, /c1 +Cancelling/);
      await change(id, ({ operation }) => cancelled(operation, now()));
      assert.equal(await ended, 130, seen());
      assert.match(seen(), /c1 +backup_/);
      assert.ok(seen().includes(`${escapeCode}[33mCancelled`), seen());
    });

    it('leaves at the second Ctrl-C, and names what goes on', onTerminal, async () => {
      const { child, seen, ended } = terminal(['backup', 'c1']);
      const [id = ''] = await until(unfinished, (ids) => ids.length === 1);
      await running(id);
      await shows(seen, /uploading/);
      child.stdin?.write('\x03');
      await shows(seen, /c1 +Cancelling/);
      child.stdin?.write('\x03');
      assert.equal(await ended, 130, seen());
      assert.match(seen(), new RegExp(`left before their end: c1 ${id}`));
      await change(id, ({ operation }) => cancelled(operation, now()));
    });

    it('waits for a gateway that is away; has no colours with NO_COLOR', onTerminal, async () => {
      const { seen, ended } = terminal(['backup', 'c1'], { NO_COLOR: '1' });
      const [id = ''] = await until(unfinished, (ids) => ids.length === 1);
      await stack.stow.gateway.stop();
      await shows(seen, /still trying/);
      await stack.stow.gateway.start();
      await change(id, ({ operation }) => cancelled(operation, now()));
      assert.equal(await ended, 1, seen());
      assert.match(seen(), /c1 +backup_\S+ +Cancelled/);
    });
  });
});
