/**
 * A node:test reporter: the files to run again because a test failed, one a line. Where a test stands in a suite that several files run, that is the file
 * beside it, which runs it: `contract/lxd.ts` has no tests of its own, and would pass.
 */
import { relative } from 'node:path';
import type { TestEvent } from 'node:test/reporters';

export default async function* failedFiles(events: AsyncIterable<TestEvent>) {
  const files = new Set<string>();
  for await (const { type, data } of events) if (type === 'test:fail') files.add(data.file ?? data.name);
  const toRun = new Set([...files].map((file) => file.replace(/(?<!\.test)\.ts$/, '.test.ts')));
  for (const file of toRun) yield `${relative('.', file)}\n`;
}
