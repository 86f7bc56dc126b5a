/** The commands of README.md and docs/, typed as they are, on a machine of their own: what is not run is named, with its reason. */
import assert from 'node:assert/strict';
import { readdir, readFile, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { findLxd } from '../lab/findLxd.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type LabLxd, startLxd } from '../lab/lxd.ts';
import { type Machine, openMachine } from '../lab/machine.ts';
import { blocksOf, isTyped, type PageOptions, typePage } from '../lab/page.ts';
import { findMc, findMinio, findNatsCli, findNatsServer, findPromtool, findVersityGw } from '../lab/parts.ts';
import { answers, startDaemon } from '../lab/processes.ts';
import { run } from '../lab/run.ts';

const versityGw = await findVersityGw(() => undefined).catch(() => undefined);
const root = fileURLToPath(new URL('../../', import.meta.url));
const quiet = () => undefined;

/** What other tests type. */
const elsewhere = ['docs/disaster.md', 'docs/moving-in.md', 'docs/nats.md', 'docs/notifications.md'];
/** Each on a machine where nothing of lxstow is yet. */
const fromNothing = ['README.md', 'docs/quickstart.md', 'docs/homelab.md', 'docs/install.md'];
/** Where one machine stands for all of its hosts. */
const severalHosts = ['docs/three-hosts.md', 'docs/production.md'];
const hosts = ['nats-1', 'nats-2', 'nats-3', 's3', 'gw-1 backup', 'gw-2', 'berlin', 'oslo', 'rome', 'hub'];
/** In this order, where lxstow is at work. */
const atWork = [
  'docs/cli.md',
  'docs/runs.md',
  'docs/retention.md',
  'docs/schedules.md',
  'docs/api.md',
  'docs/security.md',
  'docs/upkeep.md',
  'docs/upgrade.md',
  'docs/observability.md',
  'docs/status.md',
];

/** All that is not as the pages say, and why. */
const replace: Record<string, string> = {
  // There is no network to get images from.
  'ubuntu:24.04': 'bb',
  // The package is the sources.
  '/usr/share/doc/lxstow/': `${root}`,
  // These end with Ctrl-C.
  'lxstow operations watch --format json': 'ctrl-c lxstow operations watch --format json',
  'lxc monitor stow: --type=lifecycle': 'ctrl-c lxc monitor stow: --type=lifecycle',
};

const packages = '/var/lib/npm';
/** Commands of the lab's. */
const commands: Record<string, string> = {
  // Has said enough after a while.
  npm: `[ "$*" = 'root -g' ] && echo '${packages}'`,
  // No systemd: what a unit says of the environment, and its command.
  'systemd-run': 'shift; "$@" >/var/lib/systemd-run.log 2>&1 &',
  systemctl: `shift 2; for unit; do
  env $(sed -n 's/^Environment=//p' '${root}packaging/systemd/'$unit.service | sed 's,%d,/etc/lxstow/credentials,') \\
    lxstow \${unit#lxstow-} >/var/lib/$unit.log 2>&1 &
done
for port in 8081 8082; do curl -sf --retry 180 --retry-delay 1 --retry-all-errors http://127.0.0.1:$port/readyz; done`,
  'ctrl-c': 'timeout --signal=INT 3 "$@"; [ $? -le 130 ]',
};

/** Its configuration, started, with a few containers; as the quick start leaves it, but for the client. */
const working = `
cat >lxstow.yaml <<'END'
s3: { endpoint: "http://127.0.0.1:9000", accessKey: lxstow, secretKey: change-me-now }
END
chmod 600 lxstow.yaml
lxstow -c lxstow.yaml standalone >lxstow.log 2>&1 &
lxc profile create nightly
for name in c1 c2 web; do lxc launch bb $name --profile default --profile nightly; done
curl -sf --retry 180 --retry-delay 1 --retry-all-errors http://127.0.0.1:8081/readyz
`;

/** What has happened before somebody reads a page. */
const happened: Record<string, string> = {
  'docs/production.md': `mkdir ${packages} && ln -s '${root}' ${packages}/lxstow\n`,
  // What the package brings.
  'docs/install.md': `
mkdir -p /etc/lxstow/credentials /etc/lxstow/trust
cp '${root}packaging/lxstow.yaml' '${root}packaging/admin.env' /etc/lxstow/
`,
  // A backup that takes long enough to be deleted by hand.
  'docs/api.md': `
lxc remote add stow "$(lxstow -c lxstow.yaml trust token lxc)"
lxc exec c1 -- dd if=/dev/urandom of=/root/data bs=1M count=200
`,
  // Receivers of reports, which refuse what is empty or should be JSON and is not.
  'docs/runs.md': `
cat >receivers.cjs <<'END'
require('node:http').createServer(async (request, response) => {
  let body = '';
  for await (const chunk of request) body += chunk;
  const report = request.url === '/ntfy' ? body : [JSON.parse(body)].map(({ message, text }) => message ?? text)[0];
  response.writeHead(/^# Backups: Success/.test(report) ? 200 : 400).end();
}).listen(9911, '127.0.0.1');
END
timeout 300 '${process.execPath}' receivers.cjs &
export NTFY=http://127.0.0.1:9911/ntfy GOTIFY=http://127.0.0.1:9911/gotify SLACK=http://127.0.0.1:9911/slack TOKEN=t
until curl -s http://127.0.0.1:9911/ntfy -d x; do sleep 0.1; done
`,
  // Two messages that are none, and what an operation left that nobody knows.
  'docs/upkeep.md': `
for n in 1 2; do
  nats --user lxstow --password "$(cat ~/.local/state/lxstow/nats/password)" \
    request lxstow.jobs.local.backup.default.web '{"compression":"xz"}'
done
lxc query --wait -X POST /1.0/instances/web/backups -d '{"name":"lxstow-226e0430-b2c4-4903-a675-50067b3c7139-2"}'
until [ "$(lxstow -c lxstow.yaml dead-letters list --format csv | wc -l)" = 2 ]; do :; done
export LXSTOW_CONFIG=lxstow.yaml
`,
  'docs/upgrade.md': 'lxstow backup web\n',
};

const found = process.env.LXSTOW_LAB_LXD_SOCKET
  ? { available: false, reason: 'the pages have an LXD of their own' }
  : await findLxd(quiet);
const skip = found.available ? false : found.reason;

it('each page with commands is typed, here or elsewhere', async () => {
  const known = [...elsewhere, ...fromNothing, ...severalHosts, ...atWork];
  const docs = await readdir(join(root, 'docs'));
  const names = docs.filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`);
  for (const name of ['README.md', ...names]) {
    const typed = blocksOf(await readFile(join(root, name), 'utf8')).some(
      (block) => isTyped(block) && block.notRun === undefined,
    );
    assert.equal(known.includes(name), typed, `${name} ${typed ? 'is typed by no test' : 'has nothing to type'}`);
  }
});

describe('the documents', { timeout: 1_800_000, skip }, () => {
  let machineFolder: LabFolder;
  let machine: Machine;
  let lxd: LabLxd;
  const binaries: Record<string, string> = {};
  before(async () => {
    machineFolder = await openFolder('docs', quiet);
    // Before LXD mounts anything: what is mounted now would stay so there.
    machine = await openMachine(machineFolder, hosts);
    lxd = await startLxd({ name: 'docs', log: quiet });
    await lxd.lxc(['profile', 'set', 'default', 'security.privileged=true']);
    const parts = {
      'nats-server': findNatsServer,
      minio: findMinio,
      mc: findMc,
      nats: findNatsCli,
      promtool: findPromtool,
      ...(versityGw && { versitygw: async () => versityGw }),
    };
    for (const [name, find] of Object.entries(parts)) {
      // By the name that it goes by: mc's files are called after it.
      binaries[name] = join(machineFolder.path, name);
      await symlink(await find(quiet), binaries[name]);
    }
  });
  after(async () => {
    await lxd?.[Symbol.asyncDispose]();
    await machineFolder?.[Symbol.asyncDispose]();
  });

  const settings = (folder: LabFolder): PageOptions => ({
    folder,
    replace,
    commands: {
      ...Object.fromEntries(Object.entries(binaries).map(([name, path]) => [name, `exec '${path}' "$@"`])),
      ...commands,
    },
    enter: machine.enter,
    env: { LXD_DIR: lxd.dir },
  });

  /** MinIO where the pages have it, and with their keys. */
  async function startStore(folder: LabFolder): Promise<void> {
    const [enter = '', ...there] = machine.enter;
    await startDaemon({
      command: enter,
      args: [...there, binaries.minio ?? '', 'server', join(folder.path, 'minio'), '--address', '127.0.0.1:9000'],
      folder,
      env: { MINIO_ROOT_USER: 'lxstow', MINIO_ROOT_PASSWORD: 'change-me-now' },
      ready: answers(() => run(enter, [...there, 'curl', '-sf', 'http://127.0.0.1:9000/minio/health/ready'])),
    });
  }

  async function removeInstances(): Promise<void> {
    const names = (await lxd.lxc(['list', '--format', 'csv', '--columns', 'n'])).split('\n').filter(Boolean);
    if (names.length > 0) await lxd.lxc(['delete', '--force', ...names]);
  }

  for (const page of fromNothing) {
    const unable = page === 'docs/quickstart.md' && !versityGw && 'there is no VersityGW to serve its folder';
    it(page, { skip: unable }, async () => {
      await using folder = await openFolder('docs-page', quiet);
      if (page !== 'docs/quickstart.md') {
        await lxd.launch('c1', { dataMiB: 1 });
        await startStore(folder);
      }
      const { replace: others, ...typing } = settings(folder);
      // The machine has /etc and /var/lib of its own, and no more.
      const replaced = { ...others, '/var/backups/lxstow': join(folder.path, 'backups') };
      try {
        await typePage(page, { ...typing, replace: replaced, before: happened[page] ?? '' });
      } finally {
        await removeInstances();
        const [enter = '', ...there] = machine.enter;
        await run(enter, [...there, 'rm', '-rf', '/etc/lxstow', '/var/lib/lxstow']);
      }
    });
  }

  for (const page of severalHosts) {
    it(page, async () => {
      await using oslo = await startLxd({ name: 'docs-oslo', log: quiet });
      await using folder = await openFolder('docs-page', quiet);
      for (const each of [lxd, oslo]) await each.launch('c1', { dataMiB: 1 });
      // The production page starts a store of its own.
      if (page === 'docs/three-hosts.md') await startStore(folder);
      try {
        await typePage(page, {
          ...settings(folder),
          before: happened[page] ?? '',
          hosts: { berlin: { LXD_DIR: lxd.dir }, oslo: { LXD_DIR: oslo.dir }, rome: { LXD_DIR: oslo.dir } },
        });
      } finally {
        await removeInstances();
        const [enter = '', ...there] = machine.enter;
        await run(enter, [...there, 'rm', '-rf', '/etc/lxstow', '/etc/nats', '/var/lib/lxstow']);
      }
    });
  }

  describe('where lxstow is at work', () => {
    let folder: LabFolder;
    before(async () => {
      folder = await openFolder('docs-at-work', quiet);
      await startStore(folder);
      await typePage(undefined, { ...settings(folder), before: working });
    });
    after(async () => {
      await folder?.[Symbol.asyncDispose]();
      await removeInstances();
    });

    for (const page of atWork)
      it(page, async () => {
        await typePage(page, { ...settings(folder), before: happened[page] ?? '' });
      });
  });
});
