/** An npm registry of what is in node_modules, as package-lock.json has it: `npm install` without the network. */
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { attempt } from './run.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));

interface LabRegistry extends AsyncDisposable {
  readonly url: string;
}

/** Has what a user's installation needs and no more: what only we need (devDependencies) is not found. */
export async function startRegistry(): Promise<LabRegistry> {
  const { packages } = JSON.parse(await readFile(`${root}package-lock.json`, 'utf8'));
  const versions = new Map<string, Map<string, string>>();
  // Binaries for other machines are not installed here; the lock says what npm asks for, to pass them over.
  const elsewhere = new Map<string, object>();
  for (const [path, entry] of Object.entries<{ version: string; dev?: true; optional?: true }>(packages)) {
    const name = path.split('node_modules/').at(-1);
    if (!name || entry.dev) continue;
    const folder = `${root}${path}`;
    versions.set(name, (versions.get(name) ?? new Map()).set(entry.version, folder));
    if (entry.optional && !existsSync(folder)) elsewhere.set(folder, { name, ...entry });
  }

  async function answer(url: string, response: ServerResponse): Promise<void> {
    const [name = '', tarball] = decodeURIComponent(url.slice(1)).split('/-/');
    const of = versions.get(name);
    const folder = tarball && of?.get(tarball);
    if (folder) {
      const { stdout } = await attempt('tar', ['-c', '--transform=s,^\\.,package,', '--exclude=./node_modules', '.'], {
        cwd: folder,
      });
      response.end(stdout);
    } else if (of) {
      const each = await Promise.all(
        [...of].map(async ([version, at]) => {
          const manifest = elsewhere.get(at) ?? JSON.parse(await readFile(`${at}/package.json`, 'utf8'));
          return [version, { ...manifest, dist: { tarball: `${address()}/${name}/-/${version}` } }];
        }),
      );
      const latest = [...of.keys()].at(-1);
      response.end(JSON.stringify({ name, 'dist-tags': { latest }, versions: Object.fromEntries(each) }));
    } else response.writeHead(404).end('{}');
  }

  const server = createServer((request, response) => {
    answer(request.url ?? '', response).catch((error) => response.writeHead(500).end(String(error)));
  });
  const address = () => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: address(),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
