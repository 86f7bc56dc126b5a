/** The programs that LXD runs for its long work, so that a test can hold them. */
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { LabFolder } from './folder.ts';

/** `tar` unpacks plain archives; `btrfs send` and `btrfs receive` write and read those in the driver's own format. */
export type Tool = 'tar' | 'btrfs';

/** Programs that wait before they begin, until released or disposed of. */
export interface Held extends AsyncDisposable {
  /** Resolves when LXD has started one. */
  reached(signal: AbortSignal): Promise<void>;
  release(): Promise<void>;
}

export interface Tools {
  /** For the front of the daemon's PATH. */
  readonly folder: string;
  hold(tool: Tool): Promise<Held>;
}

/** Scripts in the place of the programs, whose paths `find` tells as the daemon sees them. */
export async function makeTools(labFolder: LabFolder, find: (tool: Tool) => string): Promise<Tools> {
  const folder = join(labFolder.path, 'tools');
  await mkdir(folder);
  for (const tool of ['tar', 'btrfs'] as const)
    await writeFile(join(folder, tool), script(folder, tool, find(tool)), { mode: 0o755 });
  return {
    folder,
    async hold(tool) {
      const [hold, reached] = [join(folder, `${tool}.hold`), join(folder, `${tool}.reached`)];
      await rm(reached, { force: true });
      await writeFile(hold, '');
      const release = () => rm(hold, { force: true });
      return {
        async reached(signal) {
          while (!existsSync(reached)) await delay(10, undefined, { signal });
        },
        release,
        [Symbol.asyncDispose]: release,
      };
    },
  };
}

/** Of `btrfs`, only `send` and `receive` are long. */
function script(folder: string, tool: Tool, path: string): string {
  const isLong = tool === 'btrfs' ? '[ "$1" = send ] || [ "$1" = receive ]' : 'true';
  return `#!/bin/sh
if [ -e '${folder}/${tool}.hold' ] && { ${isLong}; }; then
  : > '${folder}/${tool}.reached'
  while [ -e '${folder}/${tool}.hold' ]; do sleep 0.05; done
fi
exec '${path}' "$@"
`;
}
