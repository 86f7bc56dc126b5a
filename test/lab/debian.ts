/** From Debian, without installing anything on this machine: packages unpacked in the lab's cache, and a bare system. */
import { existsSync } from 'node:fs';
import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findPart, onPath } from './findPart.ts';
import { attempt, type Log, type RunOptions, run } from './run.ts';

/** What Docker needs, as apt sees it: it adds what those need and this machine lacks. */
const dockerPackages = ['docker.io', 'iptables', 'slirp4netns'];
/** Where compose is version 2 in a package that runs on older ones, too. */
const composeSuite = 'sid';

interface Archive {
  mirror: string;
  codename: string;
}

/**
 * A folder with `docker`, `dockerd`, compose and slirp4netns, to be used with environmentFor(). Throws where there is no Debian to fetch
 * it from.
 */
export function findDocker(log: Log, signal?: AbortSignal): Promise<string> {
  return findPart(
    {
      name: 'docker-of-debian',
      version: '2',
      accepts: async (path) => (await run('docker', ['compose', 'version'], { env: environmentFor(path) })) !== '',
      installers: [
        async (folder, log, signal) => {
          const { mirror } = await debianArchive(signal);
          log(`downloading Docker from Debian (100 MB): ${dockerPackages.join(' ')}, docker-compose`);
          const tree = join(folder, 'tree');
          await unpackWithDependencies(dockerPackages, tree, folder, signal);
          await unpackFromSuite('docker-compose', composeSuite, mirror, tree, folder, signal);
          // Where docker looks for it: nobody's own configuration.
          const plugins = join(tree, 'config', 'cli-plugins');
          await mkdir(plugins, { recursive: true });
          await symlink('../../usr/libexec/docker/cli-plugins/docker-compose', join(plugins, 'docker-compose'));
          // What alternatives would be.
          await mkdir(join(tree, 'usr', 'local', 'bin'), { recursive: true });
          for (const name of ['iptables', 'ip6tables']) {
            const unpacked = existsSync(join(tree, 'usr', 'sbin', `${name}-legacy`));
            // This machine's own, where it has the package.
            const legacy = unpacked ? `../../sbin/${name}-legacy` : `/usr/sbin/${name}-legacy`;
            await symlink(legacy, join(tree, 'usr', 'local', 'bin', name));
          }
          return tree;
        },
      ],
    },
    log,
    signal,
  );
}

/** Path of a tar: Debian's least system, of this machine's own release. Throws where there is no Debian to fetch it from. */
export async function findDebian(log: Log, signal?: AbortSignal): Promise<string> {
  const { mirror, codename } = await debianArchive(signal);
  return findPart(
    {
      name: 'debian-minbase',
      version: `${codename}.tar`,
      accepts: async (path) => (await run('tar', ['-tf', path, './etc/debian_version'])) !== '',
      installers: [
        async (folder, log, signal) => {
          log(`making a Debian ${codename} with debootstrap (a minute)`);
          const root = await bootstrap(codename, mirror, folder, signal);
          const tar = join(folder, 'root.tar');
          const without = ['./var/cache/apt', './var/lib/apt/lists', './dev'].map((path) => `--exclude=${path}/*`);
          await run('tar', ['-cf', tar, '--numeric-owner', ...without, '-C', root, '.'], { signal });
          return tar;
        },
      ],
    },
    log,
    signal,
  );
}

export interface DebianSystem {
  /** Release, such as `trixie`. */
  codename: string;
  /** Where apt takes the packages from, such as `trixie-backports`; the release itself unless told. */
  suite?: string;
  packages: string[];
}

/**
 * A root filesystem below `folder`: Debian's least system with these packages and what they depend on. Services are not started. Mounts are made
 * in a namespace that ends with the installation: a process that is killed leaves none.
 */
export async function makeSystem(
  { codename, suite = codename, packages }: DebianSystem,
  folder: string,
  log: Log,
  signal?: AbortSignal,
): Promise<string> {
  const { mirror, codename: ours } = await debianArchive(signal);
  const root =
    codename === ours ? await unpackDebian(folder, log, signal) : await bootstrap(codename, mirror, folder, signal);
  const suites = [...new Set([codename, suite])];
  const sources = suites.map((name) => `deb ${mirror} ${name} main\n`).join('');
  await writeFile(join(root, 'etc/apt/sources.list'), sources);
  await writeFile(join(root, 'usr/sbin/policy-rc.d'), '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  await run('unshare', ['--mount', '--propagation', 'private', 'sh', '-ec', installation, root, suite, ...packages], {
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', PATH: systemPath },
    signal,
  });
  return root;
}

/** This machine's own release, which other tests have made already, or will use. */
async function unpackDebian(folder: string, log: Log, signal?: AbortSignal): Promise<string> {
  const root = join(folder, 'root');
  await mkdir(root);
  await run('tar', ['-xf', await findDebian(log, signal), '--numeric-owner', '-C', root], { signal });
  return root;
}

/** PATH of root on Debian, where a chroot has none of this machine's. */
export const systemPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** For `sh`: the root filesystem, the suite, the packages. */
const installation = `root=$0 suite=$1; shift
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
chroot "$root" apt-get update -q
chroot "$root" apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-unsafe-io -t "$suite" "$@"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
`;

/**
 * Debian's least system of a release, in a folder below `folder`, by way of debootstrap, which need not be installed. What it mounts ends with
 * it, even when it is killed.
 */
async function bootstrap(codename: string, mirror: string, folder: string, signal?: AbortSignal): Promise<string> {
  const tools = join(folder, 'tools');
  await unpackWithDependencies(['debootstrap'], tools, folder, signal);
  const installed = onPath('debootstrap');
  const env = installed ? process.env : { ...process.env, DEBOOTSTRAP_DIR: join(tools, 'usr', 'share', 'debootstrap') };
  const root = join(folder, 'root');
  const command = installed ?? join(tools, 'usr', 'sbin', 'debootstrap');
  const mounts = ['--mount', '--propagation', 'private'];
  await run('unshare', [...mounts, command, '--variant=minbase', codename, root, mirror], { env, signal });
  return root;
}

/** The environment in which what has been unpacked into `tree` runs. */
export function environmentFor(tree: string, env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  const libraries = join(tree, 'usr', 'lib', `${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`);
  const folders = ['usr/local/bin', 'usr/bin', 'usr/sbin'].map((path) => join(tree, path));
  const extensions = join(libraries, 'xtables');
  return {
    ...env,
    PATH: [...folders, env.PATH].join(':'),
    LD_LIBRARY_PATH: libraries,
    DOCKER_CONFIG: join(tree, 'config'),
    ...(existsSync(extensions) && { XTABLES_LIBDIR: extensions }),
  };
}

/** Where apt gets Debian from on this machine. */
async function debianArchive(signal?: AbortSignal): Promise<Archive> {
  if (!onPath('apt-get') || !onPath('dpkg-deb')) throw new Error('this needs Debian’s apt-get and dpkg-deb');
  const fields = ['indextargets', '--format', '$(REPO_URI) $(CODENAME)', 'Created-By: Packages', 'Component: main'];
  const lines = await run('apt-get', [...fields, 'Origin: Debian', 'Label: Debian'], { signal });
  // Not -updates, not -backports.
  const [mirror, codename] =
    lines
      .split('\n')
      .map((line) => line.split(' '))
      .find(([, name]) => name && !name.includes('-')) ?? [];
  if (!mirror || !codename) throw new Error('apt has no Debian archive here');
  return { mirror, codename };
}

async function unpackWithDependencies(packages: string[], tree: string, folder: string, signal?: AbortSignal) {
  const archives = join(folder, `archives-of-${packages[0]}`);
  await mkdir(join(archives, 'partial'), { recursive: true });
  const only = [
    '--download-only',
    '--no-install-recommends',
    '-o',
    'Debug::NoLocking=1',
    '-o',
    `Dir::Cache::archives=${archives}`,
  ];
  const options = { env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }, signal };
  const download = () => attempt('apt-get', ['install', '-y', '-q', ...only, ...packages], options);
  let { status, stderr } = await download();
  if (status !== 0) {
    await run('apt-get', ['update', '-q'], options);
    ({ status, stderr } = await download());
  }
  if (status !== 0) throw new Error(stderr.trim().split('\n').at(-1));
  await unpackAll(archives, tree, { signal });
}

/** Downloads a package of this machine's own release into the folder, for any architecture; what it depends on is not. */
export async function downloadPackage(name: string, architecture: string, folder: string): Promise<void> {
  const { mirror, codename } = await debianArchive();
  await downloadFromSuite(name, codename, mirror, folder, { architecture });
}

async function unpackFromSuite(
  name: string,
  suite: string,
  mirror: string,
  tree: string,
  folder: string,
  signal?: AbortSignal,
) {
  const archives = join(folder, `archives-of-${suite}`);
  await mkdir(archives);
  await downloadFromSuite(name, suite, mirror, archives, { signal });
  await unpackAll(archives, tree, { signal });
}

/** Past what apt knows of: with lists of its own, beside what it downloads. */
async function downloadFromSuite(
  name: string,
  suite: string,
  mirror: string,
  folder: string,
  { architecture, signal }: { architecture?: string; signal?: AbortSignal | undefined },
) {
  const lists = join(folder, 'lists');
  await mkdir(join(lists, 'partial'), { recursive: true });
  const source = join(folder, 'suite.list');
  const keys = '/usr/share/keyrings/debian-archive-keyring.gpg';
  await writeFile(source, `deb [signed-by=${keys}] ${mirror} ${suite} main\n`);
  const config = {
    'Dir::Etc::sourcelist': source,
    'Dir::Etc::sourceparts': '/dev/null',
    'Dir::State::lists': lists,
    'Dir::Cache::pkgcache': '',
    'Dir::Cache::srcpkgcache': '',
    'Acquire::Languages': 'none',
    'APT::Sandbox::User': 'root',
    ...(architecture && { 'APT::Architecture': architecture, 'APT::Architectures': architecture }),
  };
  const options = Object.entries(config).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  await run('apt-get', ['update', '-q', ...options], { signal });
  await run('apt-get', ['download', '-q', ...options, name], { cwd: folder, signal });
}

async function unpackAll(archives: string, tree: string, options: RunOptions): Promise<void> {
  await mkdir(tree, { recursive: true });
  for (const name of await readdir(archives)) {
    if (name.endsWith('.deb')) await run('dpkg-deb', ['-x', join(archives, name), tree], options);
  }
}
