/**
 * Stand-ins for the images that Dockerfile and the compose files name, where no registry can be reached: the same programs, on a bare
 * Debian or on nothing. Like the real ones: Node's has npm and no curl, NATS's only busybox, VersityGW's busybox's wget and a shell, MinIO's mc and a shell.
 */
import { cp, mkdir, readFile, realpath, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { findDebian } from '../lab/debian.ts';
import type { LabDocker } from '../lab/docker.ts';
import { onPath } from '../lab/findPart.ts';
import type { LabFolder } from '../lab/folder.ts';
import { findMc, findMinio, findNatsServer, findVersityGw } from '../lab/parts.ts';
import { type Log, run } from '../lab/run.ts';

const debian = 'lxstow-lab/debian';

/** Their names, as the project's files have them, by what is in them. */
interface ImageNames {
  node: string;
  nats: string;
  versitygw: string;
  minio: string;
}

export async function buildStandIns(docker: LabDocker, names: ImageNames, folder: LabFolder, log: Log): Promise<void> {
  const busybox = onPath('busybox');
  if (!busybox) throw new Error('busybox (static) is needed for the image that stands in for NATS');
  await docker.docker(['import', await findDebian(log), debian]);

  async function build(name: string, files: Record<string, string>, dockerfile: string): Promise<void> {
    const context = join(folder.path, `image-${name.split(/[:/]/)[0]}`);
    await mkdir(context);
    for (const [to, from] of Object.entries(files)) await cp(from, join(context, to), { recursive: true });
    await writeFile(join(context, 'Dockerfile'), dockerfile);
    await docker.docker(['build', '--quiet', '--tag', name, context]);
    log(`built a stand-in for ${name}`);
  }

  const npm = onPath('npm');
  if (!npm) throw new Error('npm is needed for the image that stands in for Node');
  // It is a link to the package's bin/npm-cli.js.
  const npmPackage = dirname(dirname(await realpath(npm)));
  // What this machine needs to reach its registry.
  const registry = (await run('npm', ['config', 'get', 'registry'])).trim();
  const authorities = process.env.NODE_EXTRA_CA_CERTS;
  await build(
    names.node,
    { node: process.execPath, npm: npmPackage, ...(authorities && { 'ca.crt': authorities }) },
    `FROM ${debian}
RUN groupadd --gid 1000 node && useradd --uid 1000 --gid node --create-home node
COPY node /usr/local/bin/
COPY npm /usr/local/lib/node_modules/npm
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ENV npm_config_registry=${registry}
${authorities ? 'COPY ca.crt /etc/ca.crt\nENV NODE_EXTRA_CA_CERTS=/etc/ca.crt' : ''}
CMD ["node"]
`,
  );
  await build(
    names.nats,
    { busybox, 'nats-server': await findNatsServer(log) },
    `FROM scratch
COPY busybox /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
COPY nats-server /usr/local/bin/
ENTRYPOINT ["nats-server"]
`,
  );
  await build(
    names.versitygw,
    { busybox, versitygw: await findVersityGw(log) },
    `FROM ${debian}
COPY busybox /usr/local/bin/wget
COPY versitygw /usr/local/bin/
ENTRYPOINT ["versitygw"]
`,
  );
  await build(
    names.minio,
    { minio: await findMinio(log), mc: await findMc(log) },
    `FROM ${debian}
COPY minio mc /usr/bin/
VOLUME /data
ENTRYPOINT ["minio"]
`,
  );
}

/** What `FROM` and `image:` say, in the project's folder. */
export async function imageNames(project: string): Promise<ImageNames> {
  const dockerfile = await readFile(join(project, 'Dockerfile'), 'utf8');
  const files = ['docker-compose.yml', 'docker-compose.minio.yml'].map((name) => readFile(join(project, name), 'utf8'));
  const compose = (await Promise.all(files)).join('');
  const version = /^ARG NODE=(\S+)$/m.exec(dockerfile)?.[1];
  const find = (pattern: RegExp) => {
    const name = pattern.exec(compose)?.[0];
    if (!name) throw new Error(`no compose file names an image like ${pattern}`);
    return name;
  };
  if (!version || !/^FROM node:\$\{NODE\}-slim$/m.test(dockerfile))
    throw new Error('Dockerfile names no image of Node');
  return {
    node: `node:${version}-slim`,
    nats: find(/nats:[\d.]+-alpine/),
    versitygw: find(/versity\/versitygw:v[\d.]+/),
    minio: find(/minio\/minio:RELEASE\.\S+/),
  };
}
