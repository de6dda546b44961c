from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            "Umbrella",
            fields=[
                ("fence", models.BigIntegerField(db_default=0, default=0, editable=False)),
                ("slug", models.SlugField(primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=50)),
                ("note", models.CharField(max_length=100)),
                ("price", models.DecimalField(decimal_places=2, max_digits=6)),
                ("full", models.PositiveIntegerField(help_text="how many are on the shelf after the nightly restock")),
                ("left", models.PositiveIntegerField()),
            ],
            options={"ordering": ("price",)},
        ),
        migrations.CreateModel(
            "Order",
            fields=[
                ("number", models.UUIDField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField(auto_now_add=True)),
                ("umbrella", models.ForeignKey(on_delete=models.PROTECT, to="shop.umbrella")),
            ],
        ),
        migrations.CreateModel(
            "Charge",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.UUIDField(db_index=True)),
                ("amount", models.DecimalField(decimal_places=2, max_digits=6)),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            "Click",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("number", models.UUIDField(db_index=True)),
                ("at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    )
