"""Boxes on disk in the real formats: VOC's XML and COCO's JSON, of pictures of known sizes."""

from tests.segmentation_trees import SIZES, picture, save_jpeg, write_annotations

OBJECT = """  <object>
    <name>{}</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>
  </object>
"""
COCO_NAMES = {1: "person", 3: "car", 17: "cat", 18: "dog", 25: "giraffe"}


def voc_boxes(root, objects):
    """VOC's layout, a picture for each list of objects (name, xmin, ymin, xmax, ymax) as VOC counts."""
    folder = root / "VOCdevkit" / "VOC2012"
    (folder / "Annotations").mkdir(parents=True)
    names = [f"2008_{index:06d}" for index in range(len(objects))]
    for index, (name, own) in enumerate(zip(names, objects)):
        save_jpeg(folder / "JPEGImages" / f"{name}.jpg", picture(index))
        width, height = SIZES[index % len(SIZES)]
        (folder / "Annotations" / f"{name}.xml").write_text(
            f"<annotation>\n  <folder>VOC2012</folder><filename>{name}.jpg</filename>\n"
            f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            f"<segmented>0</segmented>\n"
            + "".join(OBJECT.format(*each) for each in own) + "</annotation>\n")
    listed = folder / "ImageSets" / "Main" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("".join(f"{name}\n" for name in names))
    return root


def coco_boxes(root, objects):
    """COCO's layout, pictures 1, 2, ... for lists of (category's number, bbox)."""
    images, annotations = [], []
    for index, own in enumerate(objects):
        width, height = SIZES[index % len(SIZES)]
        images.append({"id": index + 1, "file_name": f"{index + 1:012d}.jpg",
                       "width": width, "height": height})
        save_jpeg(root / "val2017" / images[-1]["file_name"], picture(index))
        annotations += [{"id": len(annotations) + 1, "image_id": index + 1, "category_id": number,
                         "bbox": box, "iscrowd": 0, "area": 1, "segmentation": []} for number, box in own]
    names = [{"id": number, "name": name} for number, name in COCO_NAMES.items()]
    write_annotations(root, {"images": images, "annotations": annotations, "categories": names})
    return root
